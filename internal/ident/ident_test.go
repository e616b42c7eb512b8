// SPDX-License-Identifier: Apache-2.0

package ident

import (
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCheck(t *testing.T) {
	for _, id := range []string{"a", "A-b_c.d", "0", strings.Repeat("x", MaxLen)} {
		if err := Check(id); err != nil {
			t.Errorf("Check(%q) = %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "a..b", "a/b", "-a", "a-", "ä", "a b", "..", strings.Repeat("x", MaxLen+1)} {
		if err := Check(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Check(%q) = %v, want an invalid argument", id, err)
		}
	}
}

func FuzzMatchesIsThePattern(f *testing.F) {
	want := regexp.MustCompile(pattern)
	for _, id := range []string{"", "a", "A-b_c.d", "a..b", "-a", "a-", "ä", "a\n"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if matches(id) != want.MatchString(id) {
			t.Errorf("matches(%q) = %v", id, matches(id))
		}
	})
}

func TestScopeNeedsNamespace(t *testing.T) {
	if _, err := ScopeOf(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("no namespace: %v", err)
	}
	ctx := WithScope(t.Context(), Scope{Namespace: "n", Lease: "l"})
	if s, err := ScopeOf(ctx); err != nil || s.Lease != "l" {
		t.Errorf("ScopeOf = %v, %v", s, err)
	}
}

func TestCheckLabel(t *testing.T) {
	for k, v := range map[string]string{"\xe9": "v", "k": "\xe9", "": "v"} {
		if err := CheckLabel(k, v); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q=%q: %v", k, v, err)
		}
	}
	if err := CheckLabel("k", strings.Repeat("v", 4095)); err != nil {
		t.Error(err)
	}
	if err := CheckLabels(map[string]string{"k": strings.Repeat("v", 4096)}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("4097 bytes: %v", err)
	}
}
