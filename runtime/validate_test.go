// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/json"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/runtime/protocol"
)

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "A_1+b.c-d": true, "..x": true,
		"": false, ".": false, "..": false, "a/b": false, "../a": false, "a b": false, "é": false, "a\x00": false,
	} {
		if err := CheckID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func FuzzValidate(f *testing.F) {
	seed, err := json.Marshal(newSpec("sh"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"ociVersion":"1.0","process":{"args":["x"],"cwd":"/","rlimits":[{"type":"RLIMIT_CPU"}]},"root":{"path":"/"},"linux":{"sysctl":{"net/a":"1"},"timeOffsets":{"x":{}}},"hooks":{"poststop":[{"timeout":1}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &specs.Spec{}
		if json.Unmarshal(data, s) != nil {
			return
		}
		c := &Config{Root: "/run/x", ID: "x", Bundle: "/", Spec: s}
		if validate(c) != nil {
			return
		}
		newRecord(c)
		timeOffsets(s)
		protocol.NewSpec(s)
	})
}
