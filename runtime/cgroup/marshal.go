// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Types of D-Bus that Go has no own for.
type (
	objectPath    string
	typeSignature string
)

// A property is a name and a value of a unit, an auxiliary another unit with
// its properties: the arguments of StartTransientUnit.
type property struct {
	name  string
	value any
}

type auxiliary struct {
	name       string
	properties []property
}

func prop(name string, value any) property { return property{name, value} }

// An encoder writes values in little endian, aligned as D-Bus wants.
type encoder struct{ b []byte }

func (e *encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) uint32(v uint32) {
	e.align(4)
	e.b = binary.LittleEndian.AppendUint32(e.b, v)
}

func (e *encoder) uint64(v uint64) {
	e.align(8)
	e.b = binary.LittleEndian.AppendUint64(e.b, v)
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.b = append(append(e.b, s...), 0)
}

func (e *encoder) signature(s string) {
	e.b = append(append(append(e.b, byte(len(s))), s...), 0)
}

// array writes elements of an alignment after their size.
func (e *encoder) array(alignment int, elements func()) {
	e.uint32(0)
	size := len(e.b) - 4
	e.align(alignment)
	start := len(e.b)
	elements()
	binary.LittleEndian.PutUint32(e.b[size:], uint32(len(e.b)-start))
}

// variant writes a value after its type.
func (e *encoder) variant(v any) {
	e.signature(signatureOf(v))
	e.value(v)
}

// signatureOf is a value's type. A type that is not here is a mistake of this
// package.
func signatureOf(v any) string {
	switch v.(type) {
	case bool:
		return "b"
	case int32:
		return "i"
	case uint32:
		return "u"
	case int64:
		return "x"
	case uint64:
		return "t"
	case float64:
		return "d"
	case string:
		return "s"
	case objectPath:
		return "o"
	case typeSignature:
		return "g"
	case []byte:
		return "ay"
	case []uint32:
		return "au"
	case []uint64:
		return "at"
	case []string:
		return "as"
	case []deviceEntry:
		return "a(ss)"
	case []property:
		return "a(sv)"
	case []auxiliary:
		return "a(sa(sv))"
	}
	panic(fmt.Sprintf("cgroup: a D-Bus argument of type %T", v))
}

// value writes a value and returns its type.
func (e *encoder) value(v any) string {
	switch v := v.(type) {
	case bool:
		e.uint32(map[bool]uint32{true: 1}[v])
	case int32:
		e.uint32(uint32(v))
	case uint32:
		e.uint32(v)
	case int64:
		e.uint64(uint64(v))
	case uint64:
		e.uint64(v)
	case float64:
		e.uint64(math.Float64bits(v))
	case string:
		e.string(v)
	case objectPath:
		e.string(string(v))
	case typeSignature:
		e.signature(string(v))
	default:
		e.list(v)
	}
	return signatureOf(v)
}

func (e *encoder) list(v any) {
	switch v := v.(type) {
	case []byte:
		e.array(1, func() { e.b = append(e.b, v...) })
	case []uint32:
		each(e, 4, v, e.uint32)
	case []uint64:
		each(e, 8, v, e.uint64)
	case []string:
		each(e, 4, v, e.string)
	case []deviceEntry:
		each(e, 8, v, func(d deviceEntry) { e.align(8); e.string(d.node); e.string(d.access) })
	case []property:
		each(e, 8, v, func(p property) { e.align(8); e.string(p.name); e.variant(p.value) })
	case []auxiliary:
		each(e, 8, v, func(a auxiliary) { e.align(8); e.string(a.name); e.list(a.properties) })
	}
}

func each[T any](e *encoder, alignment int, list []T, write func(T)) {
	e.array(alignment, func() {
		for _, v := range list {
			write(v)
		}
	})
}
