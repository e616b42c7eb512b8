// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below act on the calling thread where the kernel's do; a caller
// that goes on to execute a program locks its goroutine to the thread.

// PidfdOpen is a descriptor of the process pid. Linux 5.3.
func PidfdOpen(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, callError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// PidfdSignal sends sig to the process behind pidfd. Linux 5.1.
func PidfdSignal(pidfd *os.File, sig syscall.Signal) error {
	return callError("pidfd_send_signal", unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0))
}

// Prctl is prctl(2).
func Prctl(name string, option int, args ...uintptr) error {
	var a [4]uintptr
	copy(a[:], args)
	return callError("prctl "+name, unix.Prctl(option, a[0], a[1], a[2], a[3]))
}

// SetGroups sets the supplementary groups of the calling thread.
func SetGroups(gids []uint32) error {
	var p unsafe.Pointer
	if len(gids) > 0 {
		p = unsafe.Pointer(&gids[0])
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(gids)), uintptr(p), 0)
	return errnoError("setgroups", errno)
}

// SetGid sets the three group ids of the calling thread.
func SetGid(gid uint32) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
	return errnoError("setresgid", errno)
}

// SetUid sets the three user ids of the calling thread.
func SetUid(uid uint32) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
	return errnoError("setresuid", errno)
}

// Capabilities are sets of a thread, bit n for capability n.
type Capabilities struct{ Effective, Permitted, Inheritable uint64 }

// GetCapabilities reads the sets of the calling thread.
func GetCapabilities() (Capabilities, error) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return Capabilities{}, callError("capget", err)
	}
	join := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	return Capabilities{
		Effective:   join(d[0].Effective, d[1].Effective),
		Permitted:   join(d[0].Permitted, d[1].Permitted),
		Inheritable: join(d[0].Inheritable, d[1].Inheritable),
	}, nil
}

// SetCapabilities sets the sets of the calling thread.
func SetCapabilities(c Capabilities) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	d := [2]unix.CapUserData{
		{Effective: uint32(c.Effective), Permitted: uint32(c.Permitted), Inheritable: uint32(c.Inheritable)},
		{Effective: uint32(c.Effective >> 32), Permitted: uint32(c.Permitted >> 32), Inheritable: uint32(c.Inheritable >> 32)},
	}
	return callError("capset", unix.Capset(&h, &d[0]))
}

// Seccomp loads a filter for the calling thread. With
// SECCOMP_FILTER_FLAG_NEW_LISTENER (Linux 5.0) it returns a descriptor, which
// is not wrapped, as a filter may not let this thread do more.
func Seccomp(filter []unix.SockFilter, flags uint) (listener int, err error) {
	if len(filter) == 0 || len(filter) > 0xffff {
		return -1, callError("seccomp", unix.EINVAL)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)))
	return int(fd), errnoError("seccomp", errno)
}

// SetScheduler is sched_setattr(2) for the process pid, 0 for this thread.
func SetScheduler(pid int, attr unix.SchedAttr) error {
	attr.Size = unix.SizeofSchedAttr
	return callError("sched_setattr", unix.SchedSetAttr(pid, &attr, 0))
}

// SetIOPriority is ioprio_set(2) for this thread.
func SetIOPriority(class, level int) error {
	const whoProcess, classShift = 1, 13
	_, _, errno := syscall.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(class<<classShift|level))
	return errnoError("ioprio_set", errno)
}

// SetMemoryPolicy is set_mempolicy(2) for this thread.
func SetMemoryPolicy(mode int, nodes []uint64) error {
	var p unsafe.Pointer
	if len(nodes) > 0 {
		p = unsafe.Pointer(&nodes[0])
	}
	// The kernel reads one bit less than it is told of.
	_, _, errno := syscall.RawSyscall(unix.SYS_SET_MEMPOLICY, uintptr(mode), uintptr(p), uintptr(len(nodes)*64+1))
	return errnoError("set_mempolicy", errno)
}

// SetAffinity is sched_setaffinity(2) for the process pid, 0 for this thread.
func SetAffinity(pid int, set *unix.CPUSet) error {
	return callError("sched_setaffinity", unix.SchedSetaffinity(pid, set))
}

// SetPersonality is personality(2).
func SetPersonality(persona uintptr) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_PERSONALITY, persona, 0, 0)
	return errnoError("personality", errno)
}

// JoinSessionKeyring makes and joins a keyring of this name.
func JoinSessionKeyring(name string) (id int, err error) {
	id, err = unix.KeyctlJoinSessionKeyring(name)
	return id, callError("keyctl join session", err)
}

// KeyPermissions and SetKeyPermissions read and set the mask of a key.
func SetKeyPermissions(id int, mask uint32) error {
	return callError("keyctl setperm", unix.KeyctlSetperm(id, mask))
}

// Exec is execve(2).
func Exec(path string, argv, env []string) error {
	return pathError("exec", path, syscall.Exec(path, argv, env))
}

// DontNeed is madvise(2) with MADV_DONTNEED for addresses of this process.
func DontNeed(from, to uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
	if errno != 0 {
		return callError("madvise", errno)
	}
	return nil
}

// DefaultAction has signals of this process do what they do by default. It is
// for those that package signal does not let a program reset: Go leaves 32 to
// 34 as they were inherited.
func DefaultAction(signals ...unix.Signal) error {
	action := make([]byte, 64) // struct sigaction of the kernel, and more
	for _, s := range signals {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action[0])), 0, 8, 0, 0)
		if errno != 0 {
			return os.NewSyscallError(fmt.Sprintf("rt_sigaction %d", s), errno)
		}
	}
	return nil
}
