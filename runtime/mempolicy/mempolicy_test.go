// SPDX-License-Identifier: Apache-2.0

package mempolicy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestAPolicyIsAModeWithFlagsAndAMask(t *testing.T) {
	for _, c := range []struct {
		policy specs.LinuxMemoryPolicy
		mode   int
		nodes  []uint64
	}{
		{specs.LinuxMemoryPolicy{Mode: specs.MpolDefault}, 0, nil},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred}, 1, nil},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave, Nodes: "0-2, 65"}, 3, []uint64{7, 2}},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}, 2 | 1<<15, []uint64{2}},
	} {
		mode, nodes, err := Parse(&c.policy)
		if err != nil || mode != c.mode || !slices.Equal(nodes, c.nodes) {
			t.Errorf("%+v: %d, %v, %v", c.policy, mode, nodes, err)
		}
	}
}

func TestBadPoliciesAreRefused(t *testing.T) {
	for want, p := range map[string]specs.LinuxMemoryPolicy{
		`invalid memory policy mode ""`:              {},
		`invalid memory policy mode "INTERLEAVE"`:    {Mode: "INTERLEAVE", Nodes: "0"},
		`invalid memory policy flag "f"`:             {Mode: specs.MpolPreferred, Flags: []specs.MemoryPolicyFlagType{"f"}},
		"mode requires 0 nodes but got 8":            {Mode: specs.MpolDefault, Nodes: "0-7"},
		"mode requires at least one node":            {Mode: specs.MpolBind},
		`invalid memory policy nodes "0-9876543210"`: {Mode: specs.MpolBind, Nodes: "0-9876543210"},
		`invalid memory policy nodes "3-1"`:          {Mode: specs.MpolBind, Nodes: "3-1"},
		`invalid memory policy nodes "a"`:            {Mode: specs.MpolBind, Nodes: "a"},
	} {
		if _, _, err := Parse(&p); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

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
		if mask, err := parseNodes(list); err == nil && len(mask) > 16 {
			t.Errorf("%q: %d words", list, len(mask))
		}
	})
}
