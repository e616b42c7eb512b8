// SPDX-License-Identifier: Apache-2.0

package plainjson

import (
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A field is a member of a struct as JSON knows it.
type field struct {
	name      string
	index     []int
	omitEmpty bool
}

// fieldsOf are the fields of a struct, those of embedded ones after its own.
// known keeps them.
func fieldsOf(known map[reflect.Type][]field, t reflect.Type) []field {
	if list, ok := known[t]; ok {
		return list
	}
	var list, inner []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" && options == "":
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			for _, below := range fieldsOf(known, f.Type) {
				below.index = append([]int{i}, below.index...)
				inner = append(inner, below)
			}
		case f.IsExported():
			if name == "" {
				name = f.Name
			}
			list = append(list, field{name, f.Index, options == "omitempty"})
		}
	}
	for _, f := range inner {
		if !slices.ContainsFunc(list, func(own field) bool { return own.name == f.name }) {
			list = append(list, f)
		}
	}
	known[t] = list
	return list
}

// Marshal writes v as JSON, with the names of maps in order.
func Marshal(v any) ([]byte, error) {
	e := &encoder{known: map[reflect.Type][]field{}}
	if err := e.value(reflect.ValueOf(v), 0); err != nil {
		return nil, err
	}
	return e.out, nil
}

type encoder struct {
	out   []byte
	known map[reflect.Type][]field
}

func (e *encoder) value(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return errors.New("json: values are nested too deep")
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			e.out = append(e.out, "null"...)
			return nil
		}
		return e.value(v.Elem(), depth+1)
	}
	if v.IsValid() && v.Kind() == reflect.Struct {
		if t, ok := v.Interface().(encoding.TextMarshaler); ok {
			text, err := t.MarshalText()
			e.string(string(text))
			return err
		}
	}
	switch v.Kind() {
	case reflect.Bool:
		e.out = strconv.AppendBool(e.out, v.Bool())
	case reflect.String:
		e.string(v.String())
	case reflect.Struct:
		return e.object(v, depth)
	case reflect.Map:
		return e.mapping(v, depth)
	case reflect.Slice, reflect.Array:
		return e.array(v, depth)
	default:
		return e.number(v)
	}
	return nil
}

func (e *encoder) number(v reflect.Value) error {
	switch {
	case v.IsValid() && v.CanInt():
		e.out = strconv.AppendInt(e.out, v.Int(), 10)
	case v.IsValid() && v.CanUint():
		e.out = strconv.AppendUint(e.out, v.Uint(), 10)
	case !v.IsValid():
		return errors.New("json: unsupported value: nil")
	default:
		return fmt.Errorf("json: unsupported type: %s", v.Type())
	}
	return nil
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

func (e *encoder) object(v reflect.Value, depth int) error {
	e.out = append(e.out, '{')
	first := true
	for _, f := range fieldsOf(e.known, v.Type()) {
		of := v.FieldByIndex(f.index)
		if f.omitEmpty && isEmpty(of) {
			continue
		}
		e.name(f.name, &first)
		if err := e.value(of, depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

func (e *encoder) name(name string, first *bool) {
	if !*first {
		e.out = append(e.out, ',')
	}
	*first = false
	e.string(name)
	e.out = append(e.out, ':')
}

func (e *encoder) mapping(v reflect.Value, depth int) error {
	if v.IsNil() {
		e.out = append(e.out, "null"...)
		return nil
	}
	if v.Type().Key().Kind() != reflect.String {
		return fmt.Errorf("json: unsupported type: %s", v.Type())
	}
	members := make(map[string]reflect.Value, v.Len())
	for i := v.MapRange(); i.Next(); {
		members[i.Key().String()] = i.Value()
	}
	e.out = append(e.out, '{')
	first := true
	for _, name := range slices.Sorted(maps.Keys(members)) {
		e.name(name, &first)
		if err := e.value(members[name], depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

func (e *encoder) array(v reflect.Value, depth int) error {
	if v.Kind() == reflect.Slice && v.IsNil() {
		e.out = append(e.out, "null"...)
		return nil
	}
	if isBytes(v.Type()) {
		e.out = append(e.out, '"')
		e.out = base64.StdEncoding.AppendEncode(e.out, v.Bytes())
		e.out = append(e.out, '"')
		return nil
	}
	e.out = append(e.out, '[')
	for i := range v.Len() {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		if err := e.value(v.Index(i), depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, ']')
	return nil
}

// string writes s; what is not UTF-8 in it becomes U+FFFD.
func (e *encoder) string(s string) {
	e.out = append(e.out, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			e.out = append(e.out, '\\', byte(r))
		case r < ' ':
			const digits = "0123456789abcdef"
			e.out = append(e.out, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			e.out = utf8.AppendRune(e.out, r)
		}
	}
	e.out = append(e.out, '"')
}
