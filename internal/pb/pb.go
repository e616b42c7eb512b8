// SPDX-License-Identifier: Apache-2.0

// Package pb reads and writes protocol buffers (proto3) as plain Go structs,
// for programs in which the size of the protobuf runtime matters: the shim is
// in memory once for every container.
//
// A message is a struct whose fields carry their number: `pb:"3"`. The Go type
// says the wire type:
//
//	bool int32 int64 uint32 uint64   varint; an enum is an int32
//	float64                          double
//	string []byte                    length-delimited
//	*Message time.Time               a message; time.Time is google.protobuf.Timestamp
//	[]string []uint64 []*Message     repeated
//	map[string]string                a map
//
// There are no oneofs, groups, signed (zig-zag) or fixed-width integers: the
// messages of the shim have none. Unknown fields are skipped.
package pb

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"time"
)

// Wire types of the encoding.
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
	fixed32 = 5
)

// An Any is a message of a type that is named beside it.
type Any struct {
	TypeURL string `pb:"1"`
	Value   []byte `pb:"2"`
}

// timestamp is google.protobuf.Timestamp.
type timestamp struct {
	Seconds int64 `pb:"1"`
	Nanos   int32 `pb:"2"`
}

// number returns the field number of f, 0 if it is not part of the message.
func number(f reflect.StructField) uint64 {
	n, _ := strconv.ParseUint(f.Tag.Get("pb"), 10, 29)
	return n
}

// Marshal encodes the message v, a struct or a pointer to one. It panics if a field has a
// type that the package does not know, which is a fault of the program.
func Marshal(v any) []byte {
	return appendMessage(nil, reflect.Indirect(reflect.ValueOf(v)))
}

func appendMessage(b []byte, v reflect.Value) []byte {
	t := v.Type()
	for i := range t.NumField() {
		if n := number(t.Field(i)); n != 0 {
			b = appendField(b, n, v.Field(i))
		}
	}
	return b
}

func appendField(b []byte, n uint64, v reflect.Value) []byte {
	if v.IsZero() {
		return b
	}
	switch v.Kind() {
	case reflect.Slice:
		return appendSlice(b, n, v)
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			e := appendBytes(nil, 1, it.Key().String())
			b = appendBytes(b, n, appendBytes(e, 2, it.Value().String()))
		}
		return b
	case reflect.Pointer:
		return appendBytes(b, n, appendMessage(nil, v.Elem()))
	case reflect.Struct:
		return appendBytes(b, n, Marshal(fromTime(v)))
	case reflect.String:
		return appendBytes(b, n, v.String())
	case reflect.Float64:
		b = binary.AppendUvarint(b, n<<3|fixed64)
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v.Float()))
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, n<<3|varint), integer(v))
}

func appendSlice(b []byte, n uint64, v reflect.Value) []byte {
	switch v.Type().Elem().Kind() {
	case reflect.Uint8:
		return appendBytes(b, n, v.Bytes())
	case reflect.Uint64:
		var packed []byte
		for i := range v.Len() {
			packed = binary.AppendUvarint(packed, v.Index(i).Uint())
		}
		return appendBytes(b, n, packed)
	case reflect.String:
		for i := range v.Len() {
			b = appendBytes(b, n, v.Index(i).String())
		}
		return b
	}
	for i := range v.Len() {
		b = appendBytes(b, n, appendMessage(nil, v.Index(i).Elem()))
	}
	return b
}

func appendBytes[T string | []byte](b []byte, n uint64, data T) []byte {
	b = binary.AppendUvarint(b, n<<3|bytes)
	return append(binary.AppendUvarint(b, uint64(len(data))), data...)
}

func integer(v reflect.Value) uint64 {
	switch {
	case v.Kind() == reflect.Bool && v.Bool():
		return 1
	case v.CanInt():
		return uint64(v.Int())
	}
	return v.Uint()
}

func fromTime(v reflect.Value) *timestamp {
	t := v.Interface().(time.Time)
	return &timestamp{Seconds: t.Unix(), Nanos: int32(t.Nanosecond())}
}

// Unmarshal decodes b into the message that v points to.
func Unmarshal(b []byte, v any) error {
	m := reflect.ValueOf(v).Elem()
	if err := decode(b, m); err != nil {
		return fmt.Errorf("message %s: %w", m.Type().Name(), err)
	}
	return nil
}

func decode(b []byte, m reflect.Value) error {
	fields := map[uint64]int{}
	for i := range m.NumField() {
		if n := number(m.Type().Field(i)); n != 0 {
			fields[n] = i
		}
	}
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		i, ok := fields[f.number]
		if !ok {
			continue
		}
		if err := f.store(m.Field(i)); err != nil {
			return fmt.Errorf("field %s: %w", m.Type().Field(i).Name, err)
		}
	}
	return nil
}

// field is one field as it stands on the wire.
type field struct {
	number uint64
	wire   byte
	value  uint64
	data   []byte
}

// next splits the first field off b.
func next(b []byte) (f field, rest []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return f, nil, io.ErrUnexpectedEOF
	}
	b = b[n:]
	f.number, f.wire = tag>>3, byte(tag&7)
	size := 0
	switch f.wire {
	case varint:
		f.value, size = binary.Uvarint(b)
		if size <= 0 {
			return f, nil, io.ErrUnexpectedEOF
		}
	case fixed64:
		size = 8
	case fixed32:
		size = 4
	case bytes:
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return f, nil, io.ErrUnexpectedEOF
		}
		b, size = b[n:], int(length)
	default:
		return f, nil, fmt.Errorf("wire type %d of field %d is unknown", f.wire, f.number)
	}
	if size > len(b) {
		return f, nil, io.ErrUnexpectedEOF
	}
	f.data = b[:size]
	return f, b[size:], nil
}

// store sets v, or appends to it if the field is repeated.
func (f field) store(v reflect.Value) error {
	if want := wireOf(v); f.wire != want && !(f.wire == varint && v.Type() == reflect.TypeFor[[]uint64]()) {
		return fmt.Errorf("wire type is %d, not %d", f.wire, want)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(string(f.data))
	case reflect.Bool:
		v.SetBool(f.value != 0)
	case reflect.Int32:
		v.SetInt(int64(int32(f.value)))
	case reflect.Int64:
		v.SetInt(int64(f.value))
	case reflect.Uint32:
		v.SetUint(uint64(uint32(f.value)))
	case reflect.Uint64:
		v.SetUint(f.value)
	case reflect.Float64:
		v.SetFloat(math.Float64frombits(binary.LittleEndian.Uint64(f.data)))
	case reflect.Map:
		return f.storeEntry(v)
	case reflect.Slice:
		return f.storeElement(v)
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return decode(f.data, v.Elem())
	default:
		return f.storeTime(v)
	}
	return nil
}

func wireOf(v reflect.Value) byte {
	switch v.Kind() {
	case reflect.Bool, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return varint
	case reflect.Float64:
		return fixed64
	}
	return bytes
}

func (f field) storeElement(v reflect.Value) error {
	switch v.Type().Elem().Kind() {
	case reflect.Uint8:
		v.SetBytes(append([]byte{}, f.data...))
	case reflect.String:
		v.Set(reflect.Append(v, reflect.ValueOf(string(f.data))))
	case reflect.Uint64:
		return f.storeNumbers(v)
	default:
		e := reflect.New(v.Type().Elem().Elem())
		if err := decode(f.data, e.Elem()); err != nil {
			return err
		}
		v.Set(reflect.Append(v, e))
	}
	return nil
}

// storeNumbers accepts both forms: packed, and one field for each number.
func (f field) storeNumbers(v reflect.Value) error {
	if f.wire == varint {
		v.Set(reflect.Append(v, reflect.ValueOf(f.value)))
		return nil
	}
	for b := f.data; len(b) > 0; {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return io.ErrUnexpectedEOF
		}
		v.Set(reflect.Append(v, reflect.ValueOf(x)))
		b = b[n:]
	}
	return nil
}

func (f field) storeEntry(v reflect.Value) error {
	var e struct {
		Key   string `pb:"1"`
		Value string `pb:"2"`
	}
	if err := decode(f.data, reflect.ValueOf(&e).Elem()); err != nil {
		return err
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	v.SetMapIndex(reflect.ValueOf(e.Key), reflect.ValueOf(e.Value))
	return nil
}

func (f field) storeTime(v reflect.Value) error {
	var t timestamp
	if err := decode(f.data, reflect.ValueOf(&t).Elem()); err != nil {
		return err
	}
	v.Set(reflect.ValueOf(time.Unix(t.Seconds, int64(t.Nanos)).UTC()))
	return nil
}
