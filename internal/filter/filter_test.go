// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"testing"

	"github.com/containerd/errdefs"
)

func object(path []string) (string, bool) {
	labels := map[string]string{"env": "prod", "containerd.io/x": "a,b", "empty": ""}
	switch path[0] {
	case "name":
		return "docker.io/library/busybox:latest", len(path) == 1
	case "labels":
		return Labels(labels, path[1:])
	}
	return "", false
}

func TestFilterMatches(t *testing.T) {
	for _, tt := range []struct {
		filters []string
		want    bool
	}{
		{nil, true},
		{[]string{""}, true},
		{[]string{"name"}, true},
		{[]string{"nosuch"}, false},
		{[]string{"name==docker.io/library/busybox:latest"}, true},
		{[]string{"name==busybox"}, false},
		{[]string{"name!=busybox"}, true},
		{[]string{"nosuch!=x"}, true},
		{[]string{"name~=busy"}, true},
		{[]string{"name~=/^docker\\.io\\/lib/"}, true},
		{[]string{"name~=|^docker.io/lib|"}, true},
		{[]string{`name~="^busy"`}, false},
		{[]string{"labels.env==prod, name~=busybox"}, true},
		{[]string{"labels.env==prod,name==x"}, false},
		{[]string{"name==x", "labels.env==prod"}, true},
		{[]string{`labels."containerd.io/x"=="a,b"`}, true},
		{[]string{`labels."containerd.io/x"`}, true},
		{[]string{"labels.env == prod"}, true},
	} {
		f, err := Parse(tt.filters...)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.filters, err)
			continue
		}
		if got := f(object); got != tt.want {
			t.Errorf("%q matches: %v, want %v", tt.filters, got, tt.want)
		}
	}
}

func TestParseRejects(t *testing.T) {
	for _, src := range []string{"==x", "name==", "name=x", "name==x,", "name~=[", `name=="x`, "name~=/x", "a b", "a..b", ","} {
		if _, err := Parse(src); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Parse(%q) = %v, want an invalid argument", src, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a==b", `a."b"~=/c/,d!=|e|`, "name~=(", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		if m, err := Parse(src); err == nil {
			m(object)
		}
	})
}
