// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"encoding/binary"
	"errors"
)

// The wire format of protocol buffers (protobuf.dev, "Encoding") is written
// here, as far as CRIU's two messages need it: the package that has all of it
// reads and hashes the program's file whenever the program starts.

// A number is that of a field in rpc.proto.
type number uint64

// The types of the wire format.
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
	fixed32 = 5
)

// fields is a message that is being written.
type fields []byte

func (f *fields) tag(n number, kind uint64) { *f = binary.AppendUvarint(*f, uint64(n)<<3|kind) }

func (f *fields) number(n number, v uint64) {
	f.tag(n, varint)
	*f = binary.AppendUvarint(*f, v)
}

func (f *fields) flag(n number, v bool) {
	if v {
		f.number(n, 1)
		return
	}
	f.number(n, 0)
}

// text leaves an empty one out.
func (f *fields) text(n number, v string) {
	if v != "" {
		f.message(n, fields(v))
	}
}

func (f *fields) message(n number, v fields) {
	f.tag(n, bytes)
	*f = append(binary.AppendUvarint(*f, uint64(len(v))), v...)
}

// pair is a message of two texts.
func (f *fields) pair(n number, a, b string) {
	var m fields
	m.text(1, a)
	m.text(2, b)
	f.message(n, m)
}

var errMessage = errors.New("criu: response: not a message")

// eachField reads the fields of a message that are numbers or bytes, and
// passes over fields of other types.
func eachField(data []byte, do func(n number, v uint64, b []byte) error) error {
	for len(data) > 0 {
		tag, size := binary.Uvarint(data)
		if size <= 0 || tag>>3 == 0 {
			return errMessage
		}
		v, b, rest, ok := value(tag&7, data[size:])
		if !ok {
			return errMessage
		}
		data = rest
		if err := do(number(tag>>3), v, b); err != nil {
			return err
		}
	}
	return nil
}

// value takes the value of a field of this type off data.
func value(kind uint64, data []byte) (v uint64, b, rest []byte, ok bool) {
	size, length := 0, uint64(0)
	switch kind {
	case varint:
		v, size = binary.Uvarint(data)
		ok = size > 0
	case bytes:
		length, size = binary.Uvarint(data)
		ok = size > 0 && length <= uint64(len(data)-size)
	case fixed64:
		size, ok = 8, len(data) >= 8
	case fixed32:
		size, ok = 4, len(data) >= 4
	}
	if !ok {
		return 0, nil, nil, false
	}
	data = data[size:]
	return v, data[:length], data[length:], true
}

// edit writes a message anew: change returns what takes the place of a field,
// of which b is the value if that is bytes.
func edit(data []byte, change func(n number, b, field []byte) (fields, error)) (out fields, err error) {
	for len(data) > 0 {
		tag, size := binary.Uvarint(data)
		if size <= 0 || tag>>3 == 0 {
			return nil, errMessage
		}
		_, b, rest, ok := value(tag&7, data[size:])
		if !ok {
			return nil, errMessage
		}
		field, err := change(number(tag>>3), b, data[:len(data)-len(rest)])
		if err != nil {
			return nil, err
		}
		out, data = append(out, field...), rest
	}
	return out, nil
}
