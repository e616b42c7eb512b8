// SPDX-License-Identifier: Apache-2.0

// Package seccomp compiles the system call filter of the runtime
// specification ("linux.seccomp" of config-linux.md) to the classic BPF that
// seccomp(2) takes.
//
// A profile is a default action and rules; a rule is an action, a system call
// and conditions on its arguments. What a profile leaves open is decided as
// libseccomp and runc do:
//
//   - The machine that the runtime runs on is always among the architectures.
//     A call of any other that is not listed kills the thread.
//   - A call newer than every call that the profile names on its machine gets
//     ENOSYS where the default action is a refusal, so that C libraries fall
//     back to older calls.
//   - Of the rules for a call, one without conditions decides; else the first
//     whose conditions hold. Several conditions on one argument are
//     alternatives; on different ones, all must hold.
//   - Names that no machine knows are ignored.
//
// A filter is a balanced tree of comparisons for each machine, so its cost per
// call is logarithmic in the profile. Loading it is up to the caller.
package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A Program is a compiled profile.
type Program struct {
	Filter           []unix.SockFilter // nil: there is nothing to load
	Flags            uint              // SECCOMP_FILTER_FLAG_*
	ListenerPath     string            // socket for the listener, when Notify
	ListenerMetadata string
	Notify           bool // some call is decided by a listener
}

// maxInstructions is BPF_MAXINSNS of <linux/bpf_common.h>.
const maxInstructions = 4096

// Compile makes the filter of p, for the machine that it runs on.
func Compile(p *specs.LinuxSeccomp) (Program, error) {
	if p == nil || p.DefaultAction == "" && len(p.Syscalls) == 0 {
		return Program{}, nil
	}
	out, err := compile(p, native())
	if err != nil {
		return Program{}, fmt.Errorf("seccomp: %w", err)
	}
	return out, nil
}

func compile(p *specs.LinuxSeccomp, native *machine) (Program, error) {
	c := compiler{profile: p}
	var err error
	if c.fallback, err = action(p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return Program{}, fmt.Errorf("default action: %w", err)
	}
	if p.DefaultAction == specs.ActNotify {
		return Program{}, invalid("SCMP_ACT_NOTIFY cannot be used as default action")
	}
	if err := c.addMachines(native); err != nil {
		return Program{}, err
	}
	for i := range p.Syscalls {
		if err := c.addRules(&p.Syscalls[i]); err != nil {
			return Program{}, err
		}
	}
	out := Program{Filter: c.assemble(), ListenerPath: p.ListenerPath, ListenerMetadata: p.ListenerMetadata, Notify: c.notify}
	if len(out.Filter) > maxInstructions {
		return Program{}, invalid("the filter has %d instructions, the kernel takes %d", len(out.Filter), maxInstructions)
	}
	out.Flags, err = flagBits(p.Flags)
	return out, err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// Actions are the names of the actions that are known.
func Actions() []string {
	return []string{
		string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess), string(specs.ActKillThread),
		string(specs.ActLog), string(specs.ActNotify), string(specs.ActTrace), string(specs.ActTrap),
	}
}

// Operators are the names of the comparisons that are known.
func Operators() []string {
	return []string{
		string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
		string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual),
	}
}

// action is what a filter returns for an action. Errno and trace carry a
// number, EPERM unless the profile has one.
func action(a specs.LinuxSeccompAction, number *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if number != nil {
		if *number > unix.SECCOMP_RET_DATA {
			return 0, invalid("errnoRet %d is over %d", *number, unix.SECCOMP_RET_DATA)
		}
		data = uint32(*number)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, invalid("action %q is unknown", a)
}
