// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"encoding/hex"
	"math"
	"reflect"
	"strings"
	"testing"
)

// The bytes follow from the specification, section "Marshaling".
func TestMarshal(t *testing.T) {
	for _, c := range []struct {
		value     any
		want, hex string
	}{
		{true, "b", "01000000"},
		{uint32(7), "u", "07000000"},
		{uint64(1) << 40, "t", "0000000000010000"},
		{"foo", "s", "03000000 666f6f00"},
		{[]byte{1, 2}, "ay", "02000000 0102"},
		{[]string{"a", "bc"}, "as", "0f000000 01000000 6100 0000 02000000 626300"},
		{[]uint64{5}, "at", "08000000 00000000 0500000000000000"},
		{[]deviceEntry{}, "a(ss)", "00000000 00000000"},
		{[]property{{"N", uint32(1)}}, "a(sv)", "10000000 00000000 01000000 4e00 01 75 00 000000 01000000"},
		{math.Pi, "d", "182d4454fb210940"},
	} {
		var e encoder
		if got := e.value(c.value); got != c.want {
			t.Errorf("%v: type %s, want %s", c.value, got, c.want)
		}
		if got, want := hex.EncodeToString(e.b), strings.ReplaceAll(c.hex, " ", ""); got != want {
			t.Errorf("%v: %s, want %s", c.value, got, want)
		}
	}
}

// sample is a signal: path, interface, member, signature and the body (uoss).
func sample(t testing.TB) []byte {
	var body, m encoder
	body.value(uint32(3))
	body.value(objectPath("/job/3"))
	body.value("a.scope")
	body.value("done")
	m.b = append(m.b, 'l', signal, 0, 1)
	m.uint32(uint32(len(body.b)))
	m.uint32(9)
	m.array(8, func() {
		for code, v := range map[byte]any{fieldPath: objectPath("/x"), fieldInterface: "i", fieldMember: "JobRemoved", fieldSignature: typeSignature("uoss"), fieldReplySerial: uint32(4)} {
			m.align(8)
			m.b = append(m.b, code)
			m.variant(v)
		}
	})
	m.align(8)
	return append(m.b, body.b...)
}

func TestReadMessage(t *testing.T) {
	m, err := readMessage(bytes.NewReader(sample(t)))
	if err != nil || m.member != "JobRemoved" || m.signature != "uoss" || m.reply != 4 || m.kind != signal {
		t.Fatalf("%+v, %v", m, err)
	}
	d := m.body()
	if n, job, unit, result := d.uint32(), d.string(), d.string(), d.string(); n != 3 || job != "/job/3" || unit != "a.scope" || result != "done" || d.err != nil {
		t.Errorf("%d %s %s %s, %v", n, job, unit, result, d.err)
	}
	for n := range len(sample(t)) {
		if _, err := readMessage(bytes.NewReader(sample(t)[:n])); err == nil {
			t.Errorf("%d bytes are enough", n)
		}
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte("B\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := readMessage(bytes.NewReader(data)); err == nil {
			d := m.body()
			d.uint32()
			_ = d.string()
		}
	})
}

func TestVariants(t *testing.T) {
	for text, want := range map[string]any{
		"true": true, "5": int32(5), "uint64 7": uint64(7), "uint32 0x10": uint32(16), "'a b'": "a b", `"x"`: "x", "-3": int32(-3),
		"int64 -1": int64(-1), "1.5": 1.5, "['a', \"b,c\"]": []string{"a", "b,c"}, "[uint32 1, 2]": []uint32{1, 2},
		"[byte 0x01, 0xff]": []byte{1, 255}, "[]": []string(nil), "boolean false": false,
		"": nil, "'a": nil, "uint32 -1": nil, "[1, 'a']": nil, "x": nil, "[": nil, "(1, 2)": nil,
	} {
		got, err := parseVariant(text)
		if want == nil {
			if err == nil {
				t.Errorf("%q: %v", text, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %#v, %v, want %#v", text, got, err, want)
		}
	}
}

func FuzzVariants(f *testing.F) {
	f.Add("['a', 'b']")
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := parseVariant(text); err == nil {
			new(encoder).variant(v)
		}
	})
}
