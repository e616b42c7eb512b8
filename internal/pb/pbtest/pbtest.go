// SPDX-License-Identifier: Apache-2.0

// Package pbtest compares messages of package pb with those that were
// published.
package pbtest

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"slipway/internal/pb"
)

// Same fills a message of the type of ours, has the published type decode and
// encode it, and expects the same to come back, with no field unknown on
// either side.
func Same(t *testing.T, ours any, theirs proto.Message) {
	t.Helper()
	name := string(theirs.ProtoReflect().Descriptor().FullName())
	v := reflect.New(reflect.TypeOf(ours))
	fill(v.Elem())
	m := theirs.ProtoReflect().New()
	if err := proto.Unmarshal(pb.Marshal(v.Interface()), m.Interface()); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	checkKnown(t, name, m)
	data, err := proto.Marshal(m.Interface())
	if err != nil {
		t.Fatal(err)
	}
	back := reflect.New(v.Elem().Type())
	if err := pb.Unmarshal(data, back.Interface()); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if !reflect.DeepEqual(v.Interface(), back.Interface()) {
		t.Errorf("%s is %+v, came back as %+v", name, v, back)
	}
}

// fill sets every field to something that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"key": "value"}))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(100, 5).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default:
		if v.CanInt() {
			v.SetInt(7)
		} else {
			v.SetUint(7)
		}
	}
}

// checkKnown fails for fields that only one side has.
func checkKnown(t *testing.T, name string, m protoreflect.Message) {
	t.Helper()
	if len(m.GetUnknown()) > 0 {
		t.Errorf("%s has no fields %x", name, m.GetUnknown())
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			t.Errorf("%s: our message lacks %s", name, f.Name())
			continue
		}
		if f.Message() == nil || f.IsMap() || strings.HasPrefix(string(f.Message().FullName()), "google.") {
			continue
		}
		if f.IsList() {
			checkKnown(t, name+"."+string(f.Name()), m.Get(f).List().Get(0).Message())
		} else {
			checkKnown(t, name+"."+string(f.Name()), m.Get(f).Message())
		}
	}
}
