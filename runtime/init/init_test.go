// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"
)

func TestParseNodes(t *testing.T) {
	for _, c := range []struct {
		list string
		mask []uint64
		ok   bool
	}{
		{"", nil, true},
		{"0", []uint64{1}, true},
		{"0-3,7", []uint64{0x8f}, true},
		{"64", []uint64{0, 1}, true},
		{"3-1", nil, false},
		{"x", nil, false},
		{"-1", nil, false},
		{"99999999999", nil, false},
	} {
		mask, err := parseNodes(c.list)
		if (err == nil) != c.ok || !slices.Equal(mask, c.mask) {
			t.Errorf("%q: %x, %v", c.list, mask, err)
		}
	}
}

func FuzzParseNodes(f *testing.F) {
	f.Add("0-3,7")
	f.Fuzz(func(t *testing.T, list string) {
		if mask, err := parseNodes(list); err == nil && len(mask) > 64 {
			t.Errorf("%q: %d words", list, len(mask))
		}
	})
}
