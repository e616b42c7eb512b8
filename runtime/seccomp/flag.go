// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// flags are the filter flags of a profile. TSYNC is known and means nothing:
// a filter is loaded by a process with one thread.
var flags = []struct {
	name specs.LinuxSeccompFlag
	bits uint
}{
	{"SECCOMP_FILTER_FLAG_TSYNC", 0},
	{specs.LinuxSeccompFlagSpecAllow, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
	{specs.LinuxSeccompFlagLog, unix.SECCOMP_FILTER_FLAG_LOG},
	{specs.LinuxSeccompFlagWaitKillableRecv, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
}

// flagBits are the flags of seccomp(2). A profile that says nothing about
// flags does without the mitigation of Speculative Store Bypass, as with runc.
func flagBits(names []specs.LinuxSeccompFlag) (uint, error) {
	if names == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW & supported(), nil
	}
	var bits uint
	for _, name := range names {
		i := slices.IndexFunc(flags, func(f struct {
			name specs.LinuxSeccompFlag
			bits uint
		}) bool {
			return f.name == name
		})
		if i < 0 {
			return 0, invalid("flag %q is unknown", name)
		}
		if flags[i].bits&^supported() != 0 {
			return 0, invalid("flag %s is not supported by this kernel", name)
		}
		bits |= flags[i].bits
	}
	return bits, nil
}

// KnownFlags are the names of the filter flags that a profile may have.
func KnownFlags() []string {
	return flagNames(^uint(0))
}

// SupportedFlags are those of KnownFlags that the running kernel takes.
func SupportedFlags() []string {
	return flagNames(supported())
}

func flagNames(mask uint) []string {
	var names []string
	for _, f := range flags {
		if f.bits&^mask == 0 {
			names = append(names, string(f.name))
		}
	}
	return names
}

// supported asks the kernel about each flag once: with a null program it
// answers EFAULT to flags that it knows and EINVAL to others (seccomp(2)).
// WAIT_KILLABLE_RECV goes with a listener only.
var supported = sync.OnceValue(func() uint {
	var bits uint
	for _, f := range flags {
		ask := f.bits
		if ask == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV {
			ask |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		}
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(ask), 0)
		if ask == 0 || errno == unix.EFAULT {
			bits |= f.bits
		}
	}
	return bits
})
