// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fork starts a process that makes a list of system calls, the script, before
// it executes a program. Between fork and exec nothing of Go's runtime may be
// used, so the calls are prepared by the parent and made by fork as they are:
//
//	f := linux.Fork{Flags: unix.CLONE_NEWNET}
//	f.Setns(ipc, unix.CLONE_NEWIPC)
//	f.Wait()                           // until Ready has returned
//	f.Unshare(unix.CLONE_NEWCGROUP)
//	pid, err := f.Exec(exe, argv, env, files)
//
// Without Wait and Again the script runs on the caller's memory while its
// thread stands still (CLONE_VFORK), which spares the copy of the page tables.
//
// A user or time namespace can be joined only by a process with one thread,
// and a pid namespace only ever holds children of the process that joins it:
// Again continues the script in a second child, whose parent is the caller
// like the first's and whose pid Exec returns.
type Fork struct {
	Flags  uintptr  // of clone(2)
	Cgroup *os.File // directory of a cgroup of version 2 to start in; nil for the caller's
	// Ready is called with the pid while the process is at Wait.
	Ready func(pid int) error
	// OwnMemory gives the child a copy of the memory in any case. A child that
	// could be held up, as in a frozen group, needs it: the caller's thread
	// would stand still with it.
	OwnMemory bool
	// InCgroup tells, when Exec or Ready is called, whether Cgroup was used.
	InCgroup bool

	script []call
	keep   []any
	waits  bool
	again  bool
}

// call is a system call of a script. Its first argument is the last opened
// descriptor if chained. An errno in a tolerant call is passed over.
type call struct {
	name     string
	nr       uintptr
	args     [6]uintptr
	kind     uint8
	chained  bool
	tolerant bool
	outside  bool // made unless the process is InCgroup
}

const (
	plain  = uint8(iota)
	opens  // the result is kept for chained calls
	clones // the parent of the clone reports its pid and exits
	waits  // ends the process if the result is not 1
	repeat // made again if it failed the first time
)

// report is what the child writes for its parent: the pid of a second child,
// or the index of the call that failed.
type report struct {
	Pid, Call, Errno int32
}

// waitSlot stands for the pipe to wait at until its number is known.
const waitSlot = ^uintptr(0)

// cloneArgs is struct clone_args of clone3(2) as of Linux 5.7.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

func (f *Fork) add(c call) *call {
	f.script = append(f.script, c)
	return &f.script[len(f.script)-1]
}

func (f *Fork) pointer(p *byte) uintptr {
	f.keep = append(f.keep, p)
	return uintptr(unsafe.Pointer(p))
}

func (f *Fork) string(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err) // the strings of scripts are constants of the program
	}
	return f.pointer(p)
}

// Setns joins the namespace of this type behind ns.
func (f *Fork) Setns(ns *os.File, flag uintptr) {
	f.keep = append(f.keep, ns)
	f.add(call{name: "setns " + ns.Name(), nr: unix.SYS_SETNS, args: [6]uintptr{ns.Fd(), flag}})
}

// SetnsEither tries to join ns now and, if that is refused, again by the
// closure that it returns, as a later step.
func (f *Fork) SetnsEither(ns *os.File, flag uintptr) (later func()) {
	f.Setns(ns, flag)
	first := len(f.script) - 1
	f.script[first].tolerant = true
	return func() {
		f.Setns(ns, flag)
		f.script[len(f.script)-1].kind = repeat
		f.script[len(f.script)-1].args[5] = uintptr(first)
	}
}

// Unshare moves the process to new namespaces of these types.
func (f *Fork) Unshare(flags uintptr) {
	f.add(call{name: "unshare", nr: unix.SYS_UNSHARE, args: [6]uintptr{flags}})
}

// Wait stops the script until Ready has returned.
func (f *Fork) Wait() {
	p := new(byte)
	f.waits = true
	f.add(call{name: "wait", nr: unix.SYS_READ, kind: waits, args: [6]uintptr{waitSlot, f.pointer(p), 1}})
}

// Again continues the script in a second child, made with these flags. The
// processes of the namespaces that it is in by then could reach what it
// shares with the caller, so it shares nothing, and is closed to them
// (PR_SET_DUMPABLE) until the exec.
func (f *Fork) Again(flags uintptr) {
	f.again, f.OwnMemory = true, true
	f.add(call{name: "prctl", nr: unix.SYS_PRCTL, args: [6]uintptr{unix.PR_SET_DUMPABLE}})
	f.add(call{name: "clone", nr: unix.SYS_CLONE, kind: clones,
		args: [6]uintptr{flags | unix.CLONE_PARENT | uintptr(unix.SIGCHLD)}})
}

// Root becomes the root user of the process's user namespace.
func (f *Fork) Root() {
	f.add(call{name: "setgroups", nr: unix.SYS_SETGROUPS, tolerant: true})
	f.add(call{name: "setresgid", nr: unix.SYS_SETRESGID})
	f.add(call{name: "setresuid", nr: unix.SYS_SETRESUID})
}

// Session makes the process the leader of a new session.
func (f *Fork) Session() {
	f.add(call{name: "setsid", nr: unix.SYS_SETSID, tolerant: true})
}

// TimerSlack lets the kernel wake the process, and the threads that it makes,
// that much late (PR_SET_TIMERSLACK). A process that gives it up by a slack of
// 0 has the caller's again.
func (f *Fork) TimerSlack(d time.Duration) {
	f.add(call{name: "prctl", nr: unix.SYS_PRCTL, args: [6]uintptr{unix.PR_SET_TIMERSLACK, uintptr(d.Nanoseconds())}})
}

// JoinCgroup moves the process to the group whose tasks or cgroup.procs is open
// as procs. One that is Cgroup is left out if the process was started in it,
// and may refuse it if optional.
func (f *Fork) JoinCgroup(procs *os.File, isCgroup, optional bool) {
	const self = "0"
	f.keep = append(f.keep, procs)
	f.add(call{name: "write " + procs.Name(), nr: unix.SYS_WRITE, tolerant: optional, outside: isCgroup,
		args: [6]uintptr{procs.Fd(), f.string(self), uintptr(len(self))}})
}

// AllProcessors lets the process run wherever its group may, now and later:
// it does not keep what the caller is bound to.
func (f *Fork) AllProcessors() {
	const most = 64 << 10 // the kernel takes what it knows of
	mask := bytes.Repeat([]byte{0xff}, most/8)
	f.add(call{name: "sched_setaffinity", nr: unix.SYS_SCHED_SETAFFINITY, tolerant: true,
		args: [6]uintptr{0, uintptr(len(mask)), f.pointer(&mask[0])}})
}

// Default has these signals do what they do by default: a signal that the
// caller ignores stays ignored over an exec.
func (f *Fork) Default(signals ...unix.Signal) {
	action := make([]byte, 64) // struct sigaction of the kernel, and more
	for _, s := range signals {
		f.add(call{name: "rt_sigaction", nr: unix.SYS_RT_SIGACTION, args: [6]uintptr{uintptr(s), f.pointer(&action[0]), 0, 8}})
	}
}

// NewTime makes a time namespace with these offsets (lines of
// timens_offsets) the process's own. proc is procfs's root. Linux 5.6.
func (f *Fork) NewTime(proc *os.File, offsets string) {
	f.keep = append(f.keep, proc)
	f.OwnMemory = true // setns wants it
	f.add(call{name: "unshare time", nr: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWTIME}})
	if offsets != "" {
		f.open(proc, "self/timens_offsets", unix.O_WRONLY)
		f.add(call{name: "write timens_offsets", nr: unix.SYS_WRITE, chained: true,
			args: [6]uintptr{0, f.string(offsets), uintptr(len(offsets))}})
	}
	f.open(proc, "self/ns/time_for_children", unix.O_RDONLY)
	f.add(call{name: "setns time", nr: unix.SYS_SETNS, chained: true, args: [6]uintptr{0, unix.CLONE_NEWTIME}})
}

func (f *Fork) open(dir *os.File, path string, flags int) {
	f.add(call{name: "open " + path, nr: unix.SYS_OPENAT, kind: opens,
		args: [6]uintptr{dir.Fd(), f.string(path), uintptr(flags | unix.O_CLOEXEC)}})
}

// Exec forks, makes the calls of the script and executes exe, whose
// descriptors 0 and up are files. From Linux 5.11 on it has no others, not even
// those that the caller has inherited. The process is the caller's to wait for.
func (f *Fork) Exec(exe *os.File, argv, env []string, files []*os.File) (pid int, err error) {
	defer runtime.KeepAlive(f)
	if err := f.finish(exe, argv, env); err != nil {
		return 0, err
	}
	down, err := above(files)
	if err != nil {
		return 0, err
	}
	defer closeAll(down)
	f.redirect(down)
	err = OwnTimers(func() (err error) {
		pid, err = f.start()
		return err
	})
	return pid, err
}

func (f *Fork) finish(exe *os.File, argv, env []string) error {
	argvp, err := syscall.SlicePtrFromStrings(argv)
	if err != nil {
		return err
	}
	envp, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	f.keep = append(f.keep, argvp, envp, exe)
	f.add(call{name: "execveat " + exe.Name(), nr: unix.SYS_EXECVEAT, args: [6]uintptr{exe.Fd(), f.string(""),
		uintptr(unsafe.Pointer(&argvp[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH}})
	return nil
}

// redirect puts the dups, and the end of all other descriptors, before the
// exec, which is the last call.
func (f *Fork) redirect(files []*os.File) {
	exec := f.script[len(f.script)-1]
	f.script = f.script[:len(f.script)-1]
	for i, file := range files {
		f.add(call{name: "dup3", nr: unix.SYS_DUP3, args: [6]uintptr{file.Fd(), uintptr(i), 0}})
	}
	f.add(call{name: "close_range", nr: unix.SYS_CLOSE_RANGE, tolerant: true,
		args: [6]uintptr{uintptr(len(files)), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC}})
	f.add(exec)
}

// above returns copies of files with numbers that the child's dups do not hit.
func above(files []*os.File) (_ []*os.File, err error) {
	copies := make([]*os.File, 0, len(files))
	defer func() {
		if err != nil {
			closeAll(copies)
		}
	}()
	for _, file := range files {
		high, err := DupAbove(file, len(files))
		if err != nil {
			return nil, err
		}
		copies = append(copies, high)
	}
	return copies, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (f *Fork) start() (pid int, err error) {
	var reports, sync [2]int
	syscall.ForkLock.Lock()
	if err := unix.Pipe2(reports[:], unix.O_CLOEXEC); err != nil {
		syscall.ForkLock.Unlock()
		return 0, callError("pipe2", err)
	}
	if err := unix.Pipe2(sync[:], unix.O_CLOEXEC); err != nil {
		syscall.ForkLock.Unlock()
		unix.Close(reports[0])
		unix.Close(reports[1])
		return 0, callError("pipe2", err)
	}
	f.resolve(uintptr(sync[0]))
	child, errno := f.clone(uintptr(reports[1]), uintptr(sync[1]))
	syscall.ForkLock.Unlock()
	unix.Close(reports[1])
	unix.Close(sync[0])
	defer unix.Close(reports[0])
	defer func() {
		if sync[1] >= 0 {
			unix.Close(sync[1])
		}
	}()
	if errno != 0 {
		return 0, errnoError("clone", errno)
	}
	return f.follow(child, reports[0], &sync[1])
}

func (f *Fork) resolve(wait uintptr) {
	for i := range f.script {
		if f.script[i].args[0] == waitSlot {
			f.script[i].args[0] = wait
		}
	}
}

// clone forks with clone3 when that is needed and there, else with clone.
func (f *Fork) clone(report, release uintptr) (pid int, errno syscall.Errno) {
	flags := f.Flags
	vfork := canVfork && !f.waits && !f.OwnMemory
	if vfork {
		flags |= unix.CLONE_VM | unix.CLONE_VFORK
	}
	if f.Cgroup != nil {
		f.InCgroup = true
		args := &cloneArgs{
			flags: uint64(flags) | unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(f.Cgroup.Fd()),
		}
		p, errno := forkScript(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), report, release, f.script, vfork, true)
		runtime.KeepAlive(args)
		if errno != unix.ENOSYS && errno != unix.EINVAL && errno != unix.E2BIG {
			return int(p), errno
		}
		f.InCgroup = false
	}
	p, errno := forkScript(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, report, release, f.script, vfork, false)
	return int(p), errno
}

// follow sees a child through its script: it learns the pid of the second
// child, calls Ready, lets the script go on and waits for the exec.
func (f *Fork) follow(child, reports int, release *int) (pid int, err error) {
	pid = child
	defer func() {
		if err != nil {
			unix.Kill(pid, unix.SIGKILL)
			reap(pid)
			pid = 0
		}
	}()
	if f.again {
		r, err := f.next(reports)
		if err != nil {
			return pid, err
		}
		if r.Pid == 0 {
			return pid, errors.New("the child ended before its own child was made")
		}
		reap(child)
		pid = int(r.Pid)
	}
	if f.waits {
		if f.Ready != nil {
			if err := f.Ready(pid); err != nil {
				return pid, err
			}
		}
		if _, err := unix.Write(*release, []byte{1}); err != nil {
			return pid, callError("write", err)
		}
	}
	unix.Close(*release)
	*release = -1
	_, err = f.next(reports)
	return pid, err
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// next reads a report; its zero value, without an error, is the exec's.
func (f *Fork) next(reports int) (r report, err error) {
	var buf [unsafe.Sizeof(r)]byte
	var n int
	err = retry(func() (err error) { n, err = unix.Read(reports, buf[:]); return err })
	if err != nil {
		return r, callError("read", err)
	}
	if n == 0 {
		return r, nil
	}
	if _, err := binary.Decode(buf[:n], binary.NativeEndian, &r); err != nil {
		return r, err
	}
	if r.Errno != 0 {
		return r, fmt.Errorf("%s: %w", f.script[r.Call].name, syscall.Errno(r.Errno))
	}
	return r, nil
}

// forkScript is the fork and what the child does. The child may not allocate,
// grow its stack or reach the Go scheduler: it makes raw system calls only.
// It closes release, its copy of the parent's end of the pipe it may wait at,
// so that it sees the parent's death.
//
// A child that shares its parent's memory shares this frame too. So a parent,
// once it goes on, uses nothing of the frame but what the clone returned.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkScript(nr, arg0, arg1, to, release uintptr, script []call, vfork, inCgroup bool) (pid uintptr, errno syscall.Errno) {
	var (
		r      report
		opened uintptr
		i      int
		c      *call
		failed uint64 // calls that were tolerated, by index
		result uintptr
	)
	beforeFork()
	if vfork {
		pid, errno = vforkCall(nr, arg0, arg1)
	} else {
		pid, _, errno = syscall.RawSyscall6(nr, arg0, arg1, 0, 0, 0, 0)
	}
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	syscall.RawSyscall(unix.SYS_CLOSE, release, 0, 0)
	for i = 0; i < len(script); i++ {
		c = &script[i]
		if c.kind == repeat && failed&(1<<c.args[5]) == 0 || c.outside && inCgroup {
			continue
		}
		if c.chained {
			c.args[0] = opened
		}
		result, _, errno = syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno != 0 && c.tolerant {
			failed |= 1 << i
			continue
		}
		if errno != 0 {
			goto fail
		}
		switch c.kind {
		case opens:
			opened = result
		case waits:
			if result != 1 {
				goto exit
			}
		case clones:
			if result != 0 {
				r.Pid = int32(result)
				syscall.RawSyscall(unix.SYS_WRITE, to, uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
				goto exit
			}
		}
	}
fail:
	r.Call, r.Errno = int32(i), int32(errno)
	syscall.RawSyscall(unix.SYS_WRITE, to, uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
exit:
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()
