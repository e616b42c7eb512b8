// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/mempolicy"
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

// schedule sets what the scheduler and the memory manager know of a process.
func (c *container) schedule() error {
	p := c.Spec.Process
	if s := p.Scheduler; s != nil {
		err := setScheduler(s)
		if errors.Is(err, unix.EPERM) && c.Spec.Linux != nil && c.Spec.Linux.Cpus != "" {
			// sched_setattr(2): a deadline needs all processors.
			return fmt.Errorf("process scheduler can't be used together with AllowedCPUs %s: %w", c.Spec.Linux.Cpus, err)
		}
		if err != nil {
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
		mode, nodes, err := mempolicy.Parse(l.MemoryPolicy)
		if err == nil {
			err = linux.SetMemoryPolicy(mode, nodes)
		}
		if err != nil {
			return err
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
