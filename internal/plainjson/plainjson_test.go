// SPDX-License-Identifier: Apache-2.0

package plainjson

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestOneCannotTell compares with encoding/json, in both directions, for the
// type that the package is for.
func TestOneCannotTell(t *testing.T) {
	for _, text := range seeds {
		same(t, []byte(text))
	}
}

var seeds = []string{
	`{}`, `null`, ` {"ociVersion" : "1.0" , "process":{"args":["a","b\n\"\u00e9\ud83d\ude00é"],"user":{"uid":1,"umask":18}}} `,
	`{"PROCESS":{"Args":["x"]},"annotations":{"b":"1","a":"<&>"},"unknown":[{"x":[1.5e3,-0,true,false,null]}]}`,
	`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":1,"minor":2,"weight":3}],"throttleReadBpsDevice":[{"major":8,"rate":9}]},
	"devices":[{"allow":true,"major":-1}],"unified":{"a":"b"},"memory":{"limit":-1,"swappiness":18446744073709551615}},
	"seccomp":{"defaultAction":"X","defaultErrnoRet":null,"syscalls":[{"names":[],"action":"Y","args":[{"index":1,"value":2,"op":"Z"}]}]},
	"devices":[{"path":"/d","type":"c","major":1,"minor":2,"fileMode":438,"uid":0}],"timeOffsets":{"monotonic":{"secs":1}}}}`,
	`{"mounts":[{"destination":"/"},{"destination":"/b","options":null}],"mounts":[{"source":"x"}]}`,
	`{"hostname":1}`, `{"hostname":"\ud800x"}`, "{\"hostname\":\"\xff\"}", `{"process":{"user":{"uid":-1}}}`, `{"process":{"user":{"uid":1.0}}}`,
	`{"process":[]}`, `{"mounts":{}}`, `{"a":01}`, `{"a":1.}`, `{"a":"\x"}`, `{"a":tru}`, `{"a":1,}`, `[1,]`, `{"a"}`, `{"a":"` + "\n" + `"}`, ``, `{} x`,
	`{"linux":{"resources":{"pids":{"limit":9223372036854775808}}}}`,
}

// same fails if what the two packages make of data differs.
func same(t *testing.T, data []byte) {
	t.Helper()
	var ours, theirs specs.Spec
	err, want := Unmarshal(data, &ours), json.Unmarshal(data, &theirs)
	if (err == nil) != (want == nil) {
		t.Fatalf("%s: error %v, want %v", data, err, want)
	}
	if err != nil {
		return
	}
	if theirs.Windows != nil {
		theirs.Windows.CredentialSpec = nil
	}
	if !reflect.DeepEqual(ours, theirs) {
		t.Fatalf("%s: read\n%+v, want\n%+v", data, ours, theirs)
	}
	text, err := Marshal(&theirs)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := json.Marshal(&theirs)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(text, &a) != nil || json.Unmarshal(wanted, &b) != nil || !reflect.DeepEqual(a, b) {
		t.Fatalf("%s: wrote\n%s, want\n%s", data, text, wanted)
	}
}

func TestOtherTypes(t *testing.T) {
	type inner struct{ X, Y int }
	type all struct {
		inner
		Y      int
		Time   time.Time `json:"t"`
		Bytes  []byte
		Array  [2]bool
		Map    map[string][]*int `json:",omitempty"`
		Hidden string            `json:"-"`
		Hook   time.Duration
	}
	one := 1
	in := all{
		inner: inner{1, 2}, Y: 3, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Bytes: []byte{0, 1, 255},
		Array: [2]bool{true}, Map: map[string][]*int{"b": {&one, nil}, "a": nil}, Hook: time.Second,
	}
	text, err := Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var want, out all
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if err := Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	in.inner.Y = 0 // hidden by the outer one
	if !reflect.DeepEqual(out, want) || !reflect.DeepEqual(out, in) {
		t.Errorf("%s: read\n%+v, want\n%+v", text, out, in)
	}
}

func TestRefuses(t *testing.T) {
	if _, err := Marshal(struct{ C chan int }{}); err == nil {
		t.Error("wrote a channel")
	}
	if err := Unmarshal([]byte("{}"), nil); err == nil {
		t.Error("read into nothing")
	}
	var s specs.Spec
	deep := `{"x":` + strings.Repeat("[", 2*maxDepth) + strings.Repeat("]", 2*maxDepth) + "}"
	if err := Unmarshal([]byte(deep), &s); err == nil {
		t.Error("read without an end to depth")
	}
}

func FuzzSame(f *testing.F) {
	for _, text := range seeds {
		f.Add([]byte(text))
	}
	if text, err := os.ReadFile("../../oci/testdata/container.json"); err == nil {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Count(string(data), "[")+strings.Count(string(data), "{") > maxDepth {
			return
		}
		same(t, data)
	})
}
