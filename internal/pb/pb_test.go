// SPDX-License-Identifier: Apache-2.0

package pb

import (
	"reflect"
	"testing"
	"time"
)

// sample has a field of every type that the package knows.
type sample struct {
	Text    string            `pb:"1"`
	Data    []byte            `pb:"2"`
	Yes     bool              `pb:"3"`
	Enum    int32             `pb:"4"`
	Long    int64             `pb:"5"`
	Small   uint32            `pb:"6"`
	Big     uint64            `pb:"7"`
	Real    float64           `pb:"8"`
	Names   []string          `pb:"9"`
	Numbers []uint64          `pb:"10"`
	Child   *Any              `pb:"11"`
	More    []*Any            `pb:"12"`
	Labels  map[string]string `pb:"13"`
	At      time.Time         `pb:"14"`
	Private int
}

func TestMarshalAndBack(t *testing.T) {
	in := sample{
		Text: "a", Data: []byte{0}, Yes: true, Enum: -8, Long: -1, Small: 1<<32 - 1, Big: 1<<64 - 1, Real: 0.5,
		Names: []string{"", "b"}, Numbers: []uint64{0, 300}, Child: &Any{TypeURL: "t"}, More: []*Any{{}, {Value: []byte("v")}},
		Labels: map[string]string{"k": "v", "": ""}, At: time.Unix(-5, 999).UTC(),
	}
	var out sample
	if err := Unmarshal(Marshal(&in), &out); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("%+v came back as %+v", in, out)
	}
}

func TestUnmarshal(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		want sample
		ok   bool
	}{
		{"nothing", nil, sample{}, true},
		{"numbers that are not packed", []byte{0x50, 1, 0x50, 2}, sample{Numbers: []uint64{1, 2}}, true},
		{"an unknown field", []byte{0xa0, 0x06, 1, 0x0a, 1, 'x'}, sample{Text: "x"}, true},
		{"the last of two counts", []byte{0x20, 1, 0x20, 2}, sample{Enum: 2}, true},
		{"a string that is cut off", []byte{0x0a, 5, 'x'}, sample{}, false},
		{"another wire type", []byte{0x08, 1}, sample{}, false},
		{"a group", []byte{0x0b}, sample{}, false},
		{"field number 0", []byte{0x00, 1}, sample{}, false},
		{"an endless number", []byte{0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, sample{}, false},
	} {
		var out sample
		err := Unmarshal(tt.in, &out)
		if (err == nil) != tt.ok || tt.ok && !reflect.DeepEqual(out, tt.want) {
			t.Errorf("%s: %+v, %v", tt.name, out, err)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(Marshal(sample{Text: "a", Numbers: []uint64{1}, More: []*Any{{TypeURL: "x"}}, Labels: map[string]string{"k": "v"}}))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, in []byte) {
		var once, twice sample
		if Unmarshal(in, &once) != nil {
			return
		}
		if err := Unmarshal(Marshal(once), &twice); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
