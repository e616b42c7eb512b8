// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/oci"
)

// A data is struct seccomp_data of <linux/seccomp.h>.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// word is what a filter sees at an offset on a machine of the byte order big.
func (d data) word(offset uint32, big bool) uint32 {
	var order binary.ByteOrder = binary.LittleEndian
	if big {
		order = binary.BigEndian
	}
	var b [64]byte
	order.PutUint32(b[offsetNr:], d.nr)
	order.PutUint32(b[offsetArch:], d.arch)
	for i, a := range d.args {
		order.PutUint64(b[offsetArgs+8*i:], a)
	}
	return order.Uint32(b[offset:])
}

// run interprets a filter as the kernel does, and counts its steps.
func run(t *testing.T, filter []unix.SockFilter, d data, big bool) (verdict uint32, steps int) {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(filter); pc++ {
		steps++
		in := filter[pc]
		var taken bool
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = d.word(in.K, big)
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K, steps
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = a == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			taken = a > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken = a >= in.K
		default:
			t.Fatalf("instruction %d has the code %#x", pc, in.Code)
		}
		if taken {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	t.Fatal("the filter ran past its end")
	return 0, 0
}

// judge says what a profile means for a call, straight from its text.
func judge(p *specs.LinuxSeccomp, native *machine, d data) uint32 {
	fallback, _ := action(p.DefaultAction, p.DefaultErrnoRet)
	m := called(p, native, d)
	if m == nil {
		if native.name == specs.ArchX86_64 && d.arch == native.audit && d.nr == ^uint32(0) {
			return fallback
		}
		return unix.SECCOMP_RET_KILL_THREAD
	}
	nr := d.nr &^ map[bool]uint32{true: x32Bit}[m.name == specs.ArchX32]
	conditional, newest, named := fallback, uint32(0), false
	decided := false
	for _, s := range p.Syscalls {
		act, _ := action(s.Action, s.ErrnoRet)
		for _, name := range s.Names {
			n, ok := m.number(name, find(name))
			if ok {
				newest, named = max(newest, n), true
			}
			if !ok || n != nr || act == fallback {
				continue
			}
			if len(s.Args) == 0 {
				return act
			}
			if !decided && holds(s.Args, d) {
				conditional, decided = act, true
			}
		}
	}
	refuses := p.DefaultAction != specs.ActAllow && p.DefaultAction != specs.ActLog && p.DefaultAction != specs.ActTrace
	if named && refuses && nr > newest {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return conditional
}

// called is the machine whose call d is, if the profile has it.
func called(p *specs.LinuxSeccomp, native *machine, d data) *machine {
	names := append([]specs.Arch{native.name}, p.Architectures...)
	for _, name := range names {
		m := machineOf(name)
		if m.audit != d.arch || m.column < 0 {
			continue
		}
		if m.audit == unix.AUDIT_ARCH_X86_64 && (m.name == specs.ArchX32) != (d.nr&x32Bit != 0 || d.nr > x32Bit) {
			continue
		}
		return m
	}
	return nil
}

func holds(args []specs.LinuxSeccompArg, d data) bool {
	one := func(a specs.LinuxSeccompArg) bool {
		v := d.args[a.Index]
		switch a.Op {
		case specs.OpNotEqual:
			return v != a.Value
		case specs.OpLessThan:
			return v < a.Value
		case specs.OpLessEqual:
			return v <= a.Value
		case specs.OpEqualTo:
			return v == a.Value
		case specs.OpGreaterEqual:
			return v >= a.Value
		case specs.OpGreaterThan:
			return v > a.Value
		}
		return v&a.Value == a.ValueTwo
	}
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] { // alternatives
			return slices.ContainsFunc(args, one)
		}
		seen[a.Index] = true
	}
	return !slices.ContainsFunc(args, func(a specs.LinuxSeccompArg) bool { return !one(a) })
}

// interesting values are near the halves of a word and the values of rules.
func interesting(r *rand.Rand) uint64 {
	v := []uint64{0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 + 1, 1 << 63, ^uint64(0), r.Uint64(), uint64(r.Uint32())}[r.IntN(12)]
	return v + uint64(r.IntN(3)) - 1
}

func randomProfile(r *rand.Rand, archs []specs.Arch) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActTrap, specs.ActTrace, specs.ActLog, specs.ActKill}
	operators := Operators()
	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions))], Architectures: archs, Flags: []specs.LinuxSeccompFlag{}}
	for range r.IntN(60) {
		s := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))]}
		if r.IntN(2) == 0 {
			n := uint(r.IntN(4000))
			s.ErrnoRet = &n
		}
		for range 1 + r.IntN(8) {
			s.Names = append(s.Names, table[r.IntN(len(table))].name)
		}
		for range r.IntN(4) {
			s.Args = append(s.Args, specs.LinuxSeccompArg{
				Index: uint(r.IntN(6)), Value: interesting(r), ValueTwo: interesting(r), Op: specs.LinuxSeccompOperator(operators[r.IntN(len(operators))]),
			})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

// The door calls are judged by another rule, see TestDoors.
func doorless(p *specs.LinuxSeccomp) {
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(p.Syscalls[i].Names, func(n string) bool {
			door, _ := doorOf(n)
			return door != ""
		})
	}
}

func TestAFilterDecidesAsItsProfileSays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sets := []struct {
		native specs.Arch
		extra  []specs.Arch
	}{
		{specs.ArchX86_64, nil},
		{specs.ArchX86_64, []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}},
		{specs.ArchX86_64, []specs.Arch{specs.ArchX86}},
		{specs.ArchAARCH64, []specs.Arch{specs.ArchARM}},
		{specs.ArchRISCV64, nil},
		{specs.ArchPPC64LE, nil},
		{specs.ArchPPC64, nil},
		{specs.ArchX86, []specs.Arch{specs.ArchX32}},
	}
	for _, set := range sets {
		native := machineOf(set.native)
		for range 20 {
			p := randomProfile(r, set.extra)
			doorless(p)
			out, err := compile(p, native)
			if err != nil && strings.Contains(err.Error(), "instructions, the kernel takes") {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 200 {
				d := randomCall(r, p, native)
				got, _ := run(t, out.Filter, d, native.big)
				if want := judge(p, native, d); got != want {
					t.Fatalf("%s %v: call %#x of %#x with %#x: got %#x, want %#x\n%+v", set.native, set.extra, d.nr, d.arch, d.args, got, want, p)
				}
			}
		}
	}
}

func randomCall(r *rand.Rand, p *specs.LinuxSeccomp, native *machine) data {
	m := native
	if len(p.Architectures) > 0 && r.IntN(2) == 0 {
		m = machineOf(p.Architectures[r.IntN(len(p.Architectures))])
	}
	d := data{arch: m.audit}
	switch r.IntN(8) {
	case 0:
		d.nr = r.Uint32N(600)
	case 1:
		d.nr = []uint32{^uint32(0), x32Bit, x32Bit - 1, ^uint32(0) - 1, 0}[r.IntN(5)]
	case 2:
		d.arch = machines[r.IntN(len(machines))].audit
	default:
		c := &table[r.IntN(len(table))]
		if n := len(p.Syscalls); n > 0 && r.IntN(4) > 0 {
			if names := p.Syscalls[r.IntN(n)].Names; len(names) > 0 {
				c = find(names[r.IntN(len(names))])
			}
		}
		d.nr, _ = m.number(c.name, c)
		if m.name == specs.ArchX32 {
			d.nr |= x32Bit
		}
	}
	for i := range d.args {
		d.args[i] = interesting(r)
	}
	if n := len(p.Syscalls); n > 0 && r.IntN(2) == 0 {
		for _, a := range p.Syscalls[r.IntN(n)].Args {
			d.args[a.Index] = []uint64{a.Value, a.ValueTwo, a.Value - 1, a.Value + 1}[r.IntN(4)]
		}
	}
	return d
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		arch specs.Arch
		name string
		want uint32
		none bool
	}{
		{specs.ArchX86_64, "read", 0, false}, {specs.ArchX86_64, "uretprobe", 335, false}, {specs.ArchX86_64, "socketcall", 0, true},
		{specs.ArchX32, "read", 0, false}, {specs.ArchX32, "execve", 520, false}, {specs.ArchX32, "openat2", 437, false}, {specs.ArchX32, "_sysctl", 0, true},
		{specs.ArchX86, "read", 3, false}, {specs.ArchX86, "socketcall", 102, false}, {specs.ArchX86, "clock_gettime64", 403, false},
		{specs.ArchARM, "set_tls", 0xf0005, false}, {specs.ArchARM, "read", 3, false}, {specs.ArchAARCH64, "newfstatat", 79, false},
		{specs.ArchMIPS, "read", 4003, false}, {specs.ArchMIPS64, "read", 5000, false}, {specs.ArchRISCV64, "riscv_flush_icache", 259, false},
		{specs.ArchS390X, "s390_pci_mmio_read", 353, false}, {specs.ArchPPC64LE, "swapcontext", 249, false}, {specs.ArchAARCH64, "set_tls", 0, true},
	} {
		got, ok := machineOf(c.arch).number(c.name, find(c.name))
		if got != c.want || ok == c.none {
			t.Errorf("%s of %s: %d, %v", c.name, c.arch, got, ok)
		}
	}
	if !slices.IsSortedFunc(table[:], func(a, b call) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the table is not sorted")
	}
}

func TestDoors(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{}, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"socket", "shmget"}, Action: specs.ActErrno},
		{Names: []string{"bind"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 3, Op: specs.OpEqualTo}}},
	}}
	native := machineOf(specs.ArchX86)
	out, err := compile(p, native)
	if err != nil {
		t.Fatal(err)
	}
	const refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	for _, c := range []struct {
		name string
		sub  uint64
		want uint32
	}{
		{"socketcall", 1, refuse},
		{"socketcall", 2, unix.SECCOMP_RET_ALLOW}, // the condition is out of sight
		{"ipc", 23, refuse},
		{"ipc", 22, unix.SECCOMP_RET_ALLOW},
		{"socket", 1, refuse},
	} {
		nr, _ := native.number(c.name, find(c.name))
		got, _ := run(t, out.Filter, data{nr: nr, arch: native.audit, args: [6]uint64{c.sub, 3}}, false)
		if got != c.want {
			t.Errorf("%s %d: got %#x, want %#x", c.name, c.sub, got, c.want)
		}
	}
}

func defaultProfile(t testing.TB) *specs.LinuxSeccomp {
	s := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}, Linux: &specs.Linux{}}
	if err := oci.WithSeccompDefault()(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s.Linux.Seccomp
}

func TestTheDefaultProfile(t *testing.T) {
	p := defaultProfile(t)
	p.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	native := machineOf(specs.ArchX86_64)
	out, err := compile(p, native)
	if err != nil {
		t.Fatal(err)
	}
	worst := 0
	for _, m := range []*machine{native, machineOf(specs.ArchX86), machineOf(specs.ArchX32)} {
		for nr := range uint32(1000) {
			if m.name == specs.ArchX32 {
				nr |= x32Bit
			}
			d := data{nr: nr, arch: m.audit}
			got, steps := run(t, out.Filter, d, false)
			worst = max(worst, steps)
			if door := m.name == specs.ArchX86 && (nr == 102 || nr == 117); got != judge(p, native, d) && !door {
				t.Errorf("call %d of %s: got %#x", nr, m.name, got)
			}
		}
	}
	t.Logf("%d instructions, %d steps at most", len(out.Filter), worst)
	if worst > 40 {
		t.Errorf("a call takes %d steps", worst)
	}
}

func TestProfilesThatAreRefused(t *testing.T) {
	huge := uint(1 << 16)
	call := func(s specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	for name, p := range map[string]specs.LinuxSeccomp{
		"unknown action":                {DefaultAction: "SCMP_ACT_DANCE"},
		"cannot be used as default":     {DefaultAction: specs.ActNotify},
		"is over":                       {DefaultAction: specs.ActErrno, DefaultErrnoRet: &huge},
		"architecture":                  {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_PDP11"}},
		"flag":                          {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_WAVE"}},
		"used for the write syscall":    call(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}),
		"argument 6":                    call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		"operator":                      call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_ISH"}}}),
		"empty string is not a system ": call(specs.LinuxSyscall{Names: []string{""}, Action: specs.ActErrno}),
	} {
		_, err := Compile(&p)
		if err == nil || !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), strings.TrimPrefix(name, "unknown ")) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNoProfileIsNoFilter(t *testing.T) {
	for _, p := range []*specs.LinuxSeccomp{nil, {}} {
		if out, err := Compile(p); err != nil || out.Filter != nil {
			t.Errorf("got %d instructions, %v", len(out.Filter), err)
		}
	}
}

func TestUnknownNamesAreIgnored(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"summon"}, Action: specs.ActErrno}}}
	if _, err := Compile(p); err != nil {
		t.Fatal(err)
	}
}

func TestAListenerIsAskedForByARule(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/agent", ListenerMetadata: "x",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}
	out, err := Compile(p)
	if err != nil || !out.Notify || out.ListenerPath != "/run/agent" || out.ListenerMetadata != "x" {
		t.Fatalf("got %+v, %v", out, err)
	}
}

func TestALargeProfileFits(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32}, Flags: []specs.LinuxSeccompFlag{}}
	for i := range 10_000 {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{table[i%len(table)].name}, Action: specs.ActAllow})
	}
	out, err := compile(p, machineOf(specs.ArchX86_64))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions", len(out.Filter))
}

func BenchmarkCompileDefault(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(uint64(1), "read", "SCMP_ACT_ALLOW", "SCMP_CMP_EQ", uint64(7), uint(0))
	f.Fuzz(func(t *testing.T, seed uint64, name, act, op string, v uint64, index uint) {
		p := randomProfile(rand.New(rand.NewPCG(seed, 0)), []specs.Arch{specs.ArchX86, specs.ArchX32})
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.LinuxSeccompAction(act),
			Args: []specs.LinuxSeccompArg{{Index: index, Value: v, Op: specs.LinuxSeccompOperator(op)}}})
		out, err := compile(p, machineOf(specs.ArchX86_64))
		if err != nil {
			return
		}
		run(t, out.Filter, data{nr: uint32(v), arch: unix.AUDIT_ARCH_X86_64, args: [6]uint64{v}}, false)
	})
}

func TestAListenerPathWithoutARuleMeansNothing(t *testing.T) {
	p, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/agent"})
	if err != nil || p.Notify {
		t.Errorf("%+v, %v", p, err)
	}
}
