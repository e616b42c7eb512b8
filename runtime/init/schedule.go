// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// policies are those of sched(7).
var policies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3,
	specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

// schedulerFlags are the SCHED_FLAG_ bits of sched_setattr(2).
var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04,
	specs.SchedFlagKeepPolicy: 0x08, specs.SchedFlagKeepParams: 0x10,
	specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
}

// ioClasses are those of ioprio_set(2).
var ioClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3,
}

// memoryModes and memoryFlags are those of set_mempolicy(2).
var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3,
	specs.MpolLocal: 4, specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
}

// schedule sets what the scheduler and the memory manager know of a process.
func (c *container) schedule() error {
	p := c.Spec.Process
	if s := p.Scheduler; s != nil {
		if err := setScheduler(s); err != nil {
			return fmt.Errorf("scheduler: %w", err)
		}
	}
	if io := p.IOPriority; io != nil {
		class, ok := ioClasses[io.Class]
		if !ok {
			return fmt.Errorf("I/O priority class %q is unknown", io.Class)
		}
		if err := linux.SetIOPriority(class, io.Priority); err != nil {
			return err
		}
	}
	l := c.Spec.Linux
	if l == nil {
		return nil
	}
	if l.MemoryPolicy != nil {
		if err := setMemoryPolicy(l.MemoryPolicy); err != nil {
			return fmt.Errorf("memory policy: %w", err)
		}
	}
	if l.Personality != nil {
		return setPersonality(l.Personality)
	}
	return nil
}

func setScheduler(s *specs.Scheduler) error {
	policy, ok := policies[s.Policy]
	if !ok {
		return fmt.Errorf("policy %q is unknown", s.Policy)
	}
	attr := unix.SchedAttr{
		Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, f := range s.Flags {
		bit, ok := schedulerFlags[f]
		if !ok {
			return fmt.Errorf("flag %q is unknown", f)
		}
		attr.Flags |= bit
	}
	return linux.SetScheduler(0, attr)
}

func setMemoryPolicy(m *specs.LinuxMemoryPolicy) error {
	mode, ok := memoryModes[m.Mode]
	if !ok {
		return fmt.Errorf("mode %q is unknown", m.Mode)
	}
	for _, f := range m.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			return fmt.Errorf("flag %q is unknown", f)
		}
		mode |= bit
	}
	nodes, err := parseNodes(m.Nodes)
	if err != nil {
		return err
	}
	return linux.SetMemoryPolicy(mode, nodes)
}

// parseNodes reads a list such as 0-3,7 into a bit mask.
func parseNodes(list string) (mask []uint64, err error) {
	if list == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.ParseUint(from, 10, 12)
		if err != nil {
			return nil, fmt.Errorf("nodes %q: %w", list, err)
		}
		last := first
		if isRange {
			if last, err = strconv.ParseUint(to, 10, 12); err != nil || last < first {
				return nil, fmt.Errorf("nodes %q: bad range %q", list, part)
			}
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

func setPersonality(p *specs.LinuxPersonality) error {
	const perLinux, perLinux32 = 0, 8
	if len(p.Flags) > 0 {
		return fmt.Errorf("personality flag %q is unknown", p.Flags[0])
	}
	switch p.Domain {
	case specs.PerLinux:
		return linux.SetPersonality(perLinux)
	case specs.PerLinux32:
		return linux.SetPersonality(perLinux32)
	}
	return fmt.Errorf("personality domain %q is unknown", p.Domain)
}
