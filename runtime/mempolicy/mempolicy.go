// SPDX-License-Identifier: Apache-2.0

// Package mempolicy reads the NUMA memory policy of the runtime specification
// ("linux.memoryPolicy" of config-linux.md) into what set_mempolicy(2) takes.
// It applies nothing.
package mempolicy

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var modes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3,
	specs.MpolLocal: 4, specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

var flags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
}

// Parse is the mode, with its flags, and the mask of the nodes of p.
func Parse(p *specs.LinuxMemoryPolicy) (mode int, nodes []uint64, err error) {
	mode, ok := modes[p.Mode]
	if !ok {
		return 0, nil, invalid("invalid memory policy mode %q", p.Mode)
	}
	if nodes, err = parseNodes(p.Nodes); err != nil {
		return 0, nil, err
	}
	count := 0
	for _, word := range nodes {
		count += bits.OnesCount64(word)
	}
	switch p.Mode {
	case specs.MpolDefault, specs.MpolLocal:
		if count > 0 {
			return 0, nil, invalid("memory policy %s: mode requires 0 nodes but got %d", p.Mode, count)
		}
	case specs.MpolPreferred: // with or without
	default:
		if count == 0 {
			return 0, nil, invalid("memory policy %s: mode requires at least one node", p.Mode)
		}
	}
	for _, f := range p.Flags {
		bit, ok := flags[f]
		if !ok {
			return 0, nil, invalid("invalid memory policy flag %q", f)
		}
		mode |= bit
	}
	return mode, nodes, nil
}

// parseNodes reads a list such as 0-3,7 into a bit mask.
func parseNodes(list string) (mask []uint64, err error) {
	if list == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		// The kernel has 10 bits at most (CONFIG_NODES_SHIFT).
		first, err1 := strconv.ParseUint(from, 10, 10)
		last, err2 := strconv.ParseUint(to, 10, 10)
		if err1 != nil || err2 != nil || last < first {
			return nil, invalid("invalid memory policy nodes %q: %q is no range of nodes below 1024", list, part)
		}
		for n := first; n <= last; n++ {
			for uint64(len(mask)) <= n/64 {
				mask = append(mask, 0)
			}
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
