// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A compiler holds a profile's rules by machine.
type compiler struct {
	profile  *specs.LinuxSeccomp
	fallback uint32 // what the default action returns
	targets  []target
	notify   bool
}

// A target is a machine with its rules, in the profile's order.
type target struct {
	*machine
	rules  []rule
	newest uint32 // the largest number that the profile names
	named  bool   // it names some
}

// A rule has an action for one system call where all conditions hold.
type rule struct {
	nr     uint32
	action uint32
	args   []specs.LinuxSeccompArg
}

// addMachines lists the machines of the profile, the native one first, since
// nearly every call is its.
func (c *compiler) addMachines(native *machine) error {
	if native != nil {
		c.targets = append(c.targets, target{machine: native})
	}
	for _, name := range c.profile.Architectures {
		m := machineOf(name)
		if m == nil {
			return invalid("architecture %q is unknown", name)
		}
		listed := slices.ContainsFunc(c.targets, func(t target) bool { return t.machine == m })
		if m.column >= 0 && !listed { // without numbers, all its calls are strange
			c.targets = append(c.targets, target{machine: m})
		}
	}
	return nil
}

// addRules adds what one entry of the profile says of its system calls.
func (c *compiler) addRules(s *specs.LinuxSyscall) error {
	act, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return fmt.Errorf("syscalls %q: %w", s.Names, err)
	}
	alternatives, err := conditions(s.Args)
	if err != nil {
		return fmt.Errorf("syscalls %q: %w", s.Names, err)
	}
	for _, name := range s.Names {
		if name == "" {
			return invalid("an empty string is not a system call")
		}
		// The init sends the listener's number to its parent by write(2).
		if s.Action == specs.ActNotify && name == "write" {
			return invalid("SCMP_ACT_NOTIFY cannot be used for the write syscall")
		}
		place := find(name)
		for i := range c.targets {
			c.targets[i].add(name, place, act, act == c.fallback, alternatives)
		}
	}
	c.notify = c.notify || s.Action == specs.ActNotify
	return nil
}

// add adds the rules for one system call, one for each of the alternatives. A
// rule that only repeats the default action is no rule, as with runc, but its
// call is one that the profile knows.
func (t *target) add(name string, place *call, act uint32, redundant bool, alternatives [][]specs.LinuxSeccompArg) {
	if nr, ok := t.number(name, place); ok {
		t.newest, t.named = max(t.newest, nr), true
		if !redundant {
			for _, args := range alternatives {
				t.rules = append(t.rules, rule{nr, act, args})
			}
		}
	}
	// Behind socketcall and ipc the arguments are out of a filter's sight, so
	// only a rule without conditions applies there.
	if door, sub := doorOf(name); door != "" && !redundant && len(alternatives[0]) == 0 {
		if nr, ok := t.number(door, find(door)); ok {
			is := []specs.LinuxSeccompArg{{Index: 0, Value: sub, Op: specs.OpEqualTo}}
			t.rules = append(t.rules, rule{nr, act, is})
		}
	}
}

// conditions splits an entry's conditions into alternatives.
func conditions(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	var seen [6]bool
	var twice bool
	for _, arg := range args {
		if arg.Index >= uint(len(seen)) {
			return nil, invalid("argument %d: a system call has %d", arg.Index, len(seen))
		}
		if !slices.Contains(Operators(), string(arg.Op)) {
			return nil, invalid("operator %q is unknown", arg.Op)
		}
		twice = twice || seen[arg.Index]
		seen[arg.Index] = true
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var out [][]specs.LinuxSeccompArg
	for i := range args {
		out = append(out, args[i:i+1])
	}
	return out, nil
}

// assemble writes the whole program: which machine, then its tree.
func (c *compiler) assemble() []unix.SockFilter {
	a := &assembler{returns: map[uint32]label{}}
	next := a.ret(unix.SECCOMP_RET_KILL_THREAD)
	for i := len(c.targets) - 1; i >= 0; i-- {
		t := &c.targets[i]
		if slices.ContainsFunc(c.targets[:i], func(o target) bool { return o.audit == t.audit }) {
			continue // x86-64 and x32 make one section
		}
		section := a.load(offsetNr, c.section(a, t.audit))
		next = a.jump(unix.BPF_JEQ, t.audit, section, next)
	}
	a.load(offsetArch, next)
	return a.program()
}

// section decides about the calls of the machines with one audit architecture.
func (c *compiler) section(a *assembler, audit uint32) label {
	var ranges []span
	x86, x32 := false, false
	for i := range c.targets {
		t := &c.targets[i]
		if t.audit != audit {
			continue
		}
		a.big = t.big
		spans := c.spans(t)
		if t.column == colX32 {
			x32 = true
			for i := range spans {
				spans[i].first |= x32Bit
			}
		}
		x86 = x86 || t.column == colAMD64
		ranges = append(ranges, spans...)
	}
	strange := verdict{action: unix.SECCOMP_RET_KILL_THREAD}
	if x86 && !x32 { // all calls above are x32's, but for -1, which tracers use
		ranges = append(ranges, span{x32Bit, strange}, span{^uint32(0), verdict{action: c.fallback}})
	}
	if x32 && !x86 {
		ranges = append(ranges, span{0, strange})
	}
	slices.SortStableFunc(ranges, func(x, y span) int { return cmp.Compare(x.first, y.first) })
	return c.tree(a, ranges)
}

// A span is a range of system calls, up to the next span, with one verdict.
type span struct {
	first uint32
	verdict
}

// A verdict is an action, or rules with conditions before the action.
type verdict struct {
	action uint32
	rules  []rule
}

// spans partitions all numbers of a machine.
func (c *compiler) spans(t *target) []span {
	slices.SortStableFunc(t.rules, func(x, y rule) int { return cmp.Compare(x.nr, y.nr) })
	usual := verdict{action: c.fallback}
	spans := []span{{0, usual}}
	put := func(first uint32, v verdict) {
		last := &spans[len(spans)-1]
		same := len(last.rules) == 0 && len(v.rules) == 0 && last.action == v.action
		switch {
		case same:
		case last.first == first:
			last.verdict = v
			if n := len(spans); n > 1 && len(v.rules) == 0 && len(spans[n-2].rules) == 0 && spans[n-2].action == v.action {
				spans = spans[:n-1]
			}
		default:
			spans = append(spans, span{first, v})
		}
	}
	if t.column == colS390X {
		// Number 0 stands for a number in a register, which no filter sees.
		put(0, verdict{action: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
		put(1, usual)
	}
	for rules := t.rules; len(rules) > 0; {
		n := 1
		for n < len(rules) && rules[n].nr == rules[0].nr {
			n++
		}
		put(rules[0].nr, c.decide(rules[:n]))
		put(rules[0].nr+1, usual)
		rules = rules[n:]
	}
	if t.named && c.refuses() {
		put(t.newest+1, verdict{action: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	}
	return spans
}

// decide makes one verdict of the rules for a call.
func (c *compiler) decide(rules []rule) verdict {
	for _, r := range rules {
		if len(r.args) == 0 {
			return verdict{action: r.action}
		}
	}
	return verdict{action: c.fallback, rules: rules}
}

// refuses says whether the default action keeps a call from running. A tracer
// is held to handle new calls by itself.
func (c *compiler) refuses() bool {
	switch c.profile.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		return false
	}
	return true
}

// tree finds the span of the number in the accumulator and gives its verdict.
func (c *compiler) tree(a *assembler, spans []span) label {
	if len(spans) == 1 {
		return a.verdict(spans[0].verdict)
	}
	mid := len(spans) / 2
	upper := c.tree(a, spans[mid:])
	lower := c.tree(a, spans[:mid])
	return a.jump(unix.BPF_JGE, spans[mid].first, upper, lower)
}

func (a *assembler) verdict(v verdict) label {
	next := a.ret(v.action)
	for i := len(v.rules) - 1; i >= 0; i-- {
		yes := a.ret(v.rules[i].action)
		for j := len(v.rules[i].args) - 1; j >= 0; j-- {
			yes = a.compare(v.rules[i].args[j], yes, next)
		}
		next = yes
	}
	return next
}
