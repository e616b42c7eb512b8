// SPDX-License-Identifier: Apache-2.0

// Package plainjson reads and writes JSON for programs that live for some
// milliseconds. Package encoding/json prepares for all that a type can hold
// before it handles the first value, which for a container's configuration
// takes longer than a container does to start; this package looks at the types
// of the values that are there, and needs a fraction of the code.
//
// It understands structs with json tags (names, omitempty, embedded structs),
// pointers, slices, arrays, maps with string keys, strings, booleans, numbers,
// []byte as base64, and types that are their own text. It does so in the way of
// encoding/json, but passes over what an interface would hold; it does not know
// the option string and types that are their own JSON.
package plainjson

import (
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep values nest.
const maxDepth = 1000

// Unmarshal reads data, one JSON value, into what v points to. As with
// encoding/json, names match without regard to case if none matches exactly,
// and what v has no place for is passed over.
func Unmarshal(data []byte, v any) error {
	to := reflect.ValueOf(v)
	if to.Kind() != reflect.Pointer || to.IsNil() {
		return errors.New("json: Unmarshal into what is no pointer")
	}
	d := &decoder{text: string(data), known: map[reflect.Type][]field{}}
	if err := d.value(to.Elem(), 0); err != nil {
		return err
	}
	if d.space(); d.at < len(d.text) {
		return d.unexpected()
	}
	return nil
}

type decoder struct {
	text  string
	at    int
	known map[reflect.Type][]field
}

func (d *decoder) unexpected() error {
	if d.at >= len(d.text) {
		return errors.New("unexpected end of JSON input")
	}
	return fmt.Errorf("invalid character %q at offset %d", d.text[d.at], d.at)
}

func (d *decoder) space() {
	for d.at < len(d.text) && strings.IndexByte(" \t\r\n", d.text[d.at]) >= 0 {
		d.at++
	}
}

// peek is the first byte of the next token, 0 at the end.
func (d *decoder) peek() byte {
	d.space()
	if d.at < len(d.text) {
		return d.text[d.at]
	}
	return 0
}

// take takes c, if it is next.
func (d *decoder) take(c byte) bool {
	if d.peek() != c || d.at >= len(d.text) {
		return false
	}
	d.at++
	return true
}

func (d *decoder) word(w string) bool {
	ok := strings.HasPrefix(d.text[d.at:], w)
	if ok {
		d.at += len(w)
	}
	return ok
}

// value reads a value into to, or passes over it if to is not valid.
func (d *decoder) value(to reflect.Value, depth int) error {
	if depth > maxDepth {
		return errors.New("json: values are nested too deep")
	}
	c := d.peek()
	if c == 'n' && d.word("null") {
		setNil(to)
		return nil
	}
	to = target(to)
	switch {
	case c == '{':
		return d.object(to, depth)
	case c == '[':
		return d.array(to, depth)
	case c == '"':
		s, err := d.string()
		if err != nil {
			return err
		}
		return setString(to, s)
	case c == 't' && d.word("true"):
		return setBool(to, true)
	case c == 'f' && d.word("false"):
		return setBool(to, false)
	case c == '-' || c >= '0' && c <= '9':
		return d.number(to)
	}
	return d.unexpected()
}

// target follows pointers, and makes what they are to point to. An interface is
// no target.
func target(to reflect.Value) reflect.Value {
	for to.IsValid() && to.Kind() == reflect.Pointer {
		if to.IsNil() {
			to.Set(reflect.New(to.Type().Elem()))
		}
		to = to.Elem()
	}
	if to.IsValid() && to.Kind() == reflect.Interface {
		return reflect.Value{}
	}
	return to
}

func setNil(to reflect.Value) {
	if !to.IsValid() {
		return
	}
	switch to.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		to.SetZero()
	}
}

func mismatch(what string, to reflect.Value) error {
	return fmt.Errorf("json: cannot unmarshal %s into Go value of type %s", what, to.Type())
}

func setBool(to reflect.Value, b bool) error {
	if !to.IsValid() {
		return nil
	}
	if to.Kind() != reflect.Bool {
		return mismatch("bool", to)
	}
	to.SetBool(b)
	return nil
}

func setString(to reflect.Value, s string) error {
	if !to.IsValid() {
		return nil
	}
	if t, ok := to.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return t.UnmarshalText([]byte(s))
	}
	switch {
	case to.Kind() == reflect.String:
		to.SetString(s)
		return nil
	case isBytes(to.Type()):
		b, err := base64.StdEncoding.DecodeString(s)
		to.SetBytes(b)
		return err
	}
	return mismatch("string", to)
}

func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// number reads a number, by the grammar of RFC 8259, section 6.
func (d *decoder) number(to reflect.Value) error {
	start := d.at
	d.take('-')
	if whole := d.digits(); whole == 0 || whole > 1 && d.text[d.at-whole] == '0' {
		return d.unexpected()
	}
	if d.at < len(d.text) && d.text[d.at] == '.' {
		d.at++
		if d.digits() == 0 {
			return d.unexpected()
		}
	}
	if d.at < len(d.text) && d.text[d.at]|0x20 == 'e' {
		d.at++
		if d.at < len(d.text) && (d.text[d.at] == '+' || d.text[d.at] == '-') {
			d.at++
		}
		if d.digits() == 0 {
			return d.unexpected()
		}
	}
	return setNumber(to, d.text[start:d.at])
}

func (d *decoder) digits() (n int) {
	for d.at < len(d.text) && d.text[d.at] >= '0' && d.text[d.at] <= '9' {
		d.at++
		n++
	}
	return n
}

func setNumber(to reflect.Value, s string) error {
	if !to.IsValid() {
		return nil
	}
	switch {
	case to.CanInt():
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || to.OverflowInt(n) {
			return mismatch("number "+s, to)
		}
		to.SetInt(n)
	case to.CanUint():
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || to.OverflowUint(n) {
			return mismatch("number "+s, to)
		}
		to.SetUint(n)
	case to.CanFloat():
		n, err := strconv.ParseFloat(s, to.Type().Bits())
		if err != nil {
			return mismatch("number "+s, to)
		}
		to.SetFloat(n)
	default:
		return mismatch("number", to)
	}
	return nil
}

// array reads an array. One into a Go array fills it as far as both go.
func (d *decoder) array(to reflect.Value, depth int) error {
	list := to.IsValid()
	if list && to.Kind() != reflect.Slice && to.Kind() != reflect.Array {
		return mismatch("array", to)
	}
	d.at++
	n := 0
	for more := !d.take(']'); more; n++ {
		var at reflect.Value
		switch {
		case !list:
		case to.Kind() == reflect.Array:
			if n < to.Len() {
				at = to.Index(n)
			}
		default:
			if n >= to.Len() {
				to.Grow(1)
				to.SetLen(n + 1)
			}
			at = to.Index(n)
		}
		if err := d.value(at, depth+1); err != nil {
			return err
		}
		if more = d.take(','); !more && !d.take(']') {
			return d.unexpected()
		}
	}
	switch {
	case !list:
	case to.Kind() == reflect.Array:
		for ; n < to.Len(); n++ {
			to.Index(n).SetZero()
		}
	case n == 0:
		to.Set(reflect.MakeSlice(to.Type(), 0, 0))
	default:
		to.SetLen(n)
	}
	return nil
}

func (d *decoder) object(to reflect.Value, depth int) error {
	if to.IsValid() && to.Kind() != reflect.Struct && (to.Kind() != reflect.Map || to.Type().Key().Kind() != reflect.String) {
		return mismatch("object", to)
	}
	d.at++
	if to.IsValid() && to.Kind() == reflect.Map && to.IsNil() {
		to.Set(reflect.MakeMap(to.Type()))
	}
	for more := !d.take('}'); more; {
		if d.peek() != '"' {
			return d.unexpected()
		}
		name, err := d.string()
		if err != nil {
			return err
		}
		if !d.take(':') {
			return d.unexpected()
		}
		if err := d.member(to, name, depth+1); err != nil {
			return err
		}
		if more = d.take(','); !more && !d.take('}') {
			return d.unexpected()
		}
	}
	return nil
}

func (d *decoder) member(to reflect.Value, name string, depth int) error {
	if to.IsValid() && to.Kind() == reflect.Map {
		elem := reflect.New(to.Type().Elem()).Elem()
		if err := d.value(elem, depth); err != nil {
			return err
		}
		to.SetMapIndex(reflect.ValueOf(name).Convert(to.Type().Key()), elem)
		return nil
	}
	if to.IsValid() {
		to = d.find(to, name)
	}
	return d.value(to, depth)
}

// find is the field of to that is called name, or not valid.
func (d *decoder) find(to reflect.Value, name string) reflect.Value {
	list := fieldsOf(d.known, to.Type())
	for i := range list {
		if list[i].name == name {
			return to.FieldByIndex(list[i].index)
		}
	}
	for i := range list {
		if strings.EqualFold(list[i].name, name) {
			return to.FieldByIndex(list[i].index)
		}
	}
	return reflect.Value{}
}

// string reads a string. One without escapes is part of the text.
func (d *decoder) string() (string, error) {
	d.at++
	start := d.at
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return d.text[start : d.at-1], nil
		case c < ' ':
			return "", d.unexpected()
		case c == '\\' || c >= utf8.RuneSelf:
			return d.unescape([]byte(d.text[start:d.at]))
		}
		d.at++
	}
	return "", d.unexpected()
}

// unescape reads the rest of a string that begins with b.
func (d *decoder) unescape(b []byte) (string, error) {
	for d.at < len(d.text) {
		c := d.text[d.at]
		switch {
		case c == '"':
			d.at++
			return string(b), nil
		case c < ' ':
			return "", d.unexpected()
		case c == '\\':
			r, err := d.escape()
			if err != nil {
				return "", err
			}
			b = utf8.AppendRune(b, r)
		default:
			r, size := utf8.DecodeRuneInString(d.text[d.at:])
			b = utf8.AppendRune(b, r)
			d.at += size
		}
	}
	return "", d.unexpected()
}

func (d *decoder) escape() (rune, error) {
	d.at++
	if d.at >= len(d.text) {
		return 0, d.unexpected()
	}
	c := d.text[d.at]
	if c == 'u' {
		return d.unicode()
	}
	const letters, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	i := strings.IndexByte(letters, c)
	if i < 0 {
		return 0, d.unexpected()
	}
	d.at++
	return rune(meant[i]), nil
}

// unicode reads u and four digits, or two of these that are one character.
func (d *decoder) unicode() (rune, error) {
	r, ok := d.hex(d.at)
	if !ok {
		return 0, d.unexpected()
	}
	d.at += 5
	if !utf16.IsSurrogate(r) || d.at >= len(d.text) || d.text[d.at] != '\\' {
		return r, nil // half a character alone becomes U+FFFD
	}
	if low, ok := d.hex(d.at + 1); ok {
		if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
			d.at += 6
			return both, nil
		}
	}
	return utf8.RuneError, nil
}

func (d *decoder) hex(at int) (rune, bool) {
	if len(d.text) < at+5 || d.text[at] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range []byte(d.text[at+1 : at+5]) {
		i := strings.IndexByte("0123456789abcdef", c|0x20)
		if i < 0 || c < '0' {
			return 0, false
		}
		r = r<<4 | rune(i)
	}
	return r, true
}
