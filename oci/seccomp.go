// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// WithSeccompDefault filters system calls by the default profile, which
// follows from the capabilities that the process has at this point: a call
// that needs a capability fails with EPERM without it.
func WithSeccompDefault() Opt {
	return edit(func(s *specs.Spec) {
		linux(s).Seccomp = defaultProfile(caps(s).Bounding, runtime.GOARCH)
	})
}

// WithSeccompFile filters system calls by the profile in a file, in the form
// of the runtime specification.
func WithSeccompFile(file string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cannot load seccomp profile %q: %w", file, err)
		}
		profile := &specs.LinuxSeccomp{}
		if err := json.Unmarshal(data, profile); err != nil {
			return fmt.Errorf("seccomp profile %s: %w: %w", file, err, errdefs.ErrInvalidArgument)
		}
		linux(s).Seccomp = profile
		return nil
	}
}

// cloneNamespaces are the flags of clone(2) that make namespaces.
const cloneNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// families are those of sockets: all but AF_ALG, by which too many have broken
// into the kernel, and AF_VSOCK, which would reach the hypervisor.
var families = []specs.LinuxSeccompArg{
	{Value: unix.AF_ALG, Op: specs.OpLessThan},
	{Value: unix.AF_NFC, Op: specs.OpEqualTo}, // between the two
	{Value: unix.AF_VSOCK, Op: specs.OpGreaterThan},
}

// defaultProfile allows what follows and answers EPERM to everything else.
func defaultProfile(caps []string, arch string) *specs.LinuxSeccomp {
	has := func(c string) bool { return slices.Contains(caps, c) }
	eperm := uint(unix.EPERM)
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: filterArchs(arch)}
	allow := func(calls string, args ...specs.LinuxSeccompArg) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: strings.Fields(calls), Action: specs.ActAllow, Args: args})
	}
	allow(allowedCalls)
	for _, family := range families {
		allow("socket", family)
	}
	for _, persona := range []uint64{0, uname26, perLinux32, uname26 | perLinux32, 0xffffffff} {
		allow("personality", specs.LinuxSeccompArg{Index: 0, Value: persona, Op: specs.OpEqualTo})
	}
	for _, c := range archCalls {
		if slices.Contains(strings.Fields(c.archs), arch) {
			allow(c.calls)
		}
	}
	for _, c := range capCalls {
		if has(c.cap) {
			allow(c.calls)
		}
	}
	if !has("CAP_SYS_ADMIN") {
		flags := uint(0)
		if arch == "s390x" { // where the arguments of clone are swapped
			flags = 1
		}
		allow("clone", specs.LinuxSeccompArg{Index: flags, Value: cloneNamespaces, ValueTwo: 0, Op: specs.OpMaskedEqual})
		// The flags of clone3 are behind a pointer, which a filter cannot
		// see. ENOSYS makes C libraries fall back to clone.
		enosys := uint(unix.ENOSYS)
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys})
	}
	return p
}

// Of <linux/personality.h>.
const (
	perLinux32 = 0x8
	uname26    = 0x20000
)

// filterArchs lists the kernel interfaces that programs of arch may use.
func filterArchs(arch string) []specs.Arch {
	switch arch {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	case "s390x":
		return []specs.Arch{specs.ArchS390X, specs.ArchS390}
	}
	return nil // the one that the runtime runs on
}

// archCalls are calls of some machines only.
var archCalls = []struct{ archs, calls string }{
	{"amd64 386", "arch_prctl modify_ldt"},
	{"arm64 arm", "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"},
	{"ppc64le", "sync_file_range2 swapcontext"},
	{"riscv64", "riscv_flush_icache riscv_hwprobe"},
	{"s390x", "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"},
}

// capCalls are calls that do nothing, or nothing good, without a capability.
var capCalls = []struct{ cap, calls string }{
	{"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
	{"CAP_SYS_ADMIN", `bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount
		mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname
		sethostname setns syslog umount umount2 unshare`},
	{"CAP_SYS_BOOT", "reboot"},
	{"CAP_SYS_CHROOT", "chroot"},
	{"CAP_SYS_MODULE", "delete_module init_module finit_module"},
	{"CAP_SYS_PACCT", "acct"},
	{"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"},
	{"CAP_SYS_RAWIO", "iopl ioperm"},
	{"CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"},
	{"CAP_SYS_TTY_CONFIG", "vhangup"},
	{"CAP_SYS_NICE", "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"},
	{"CAP_SYSLOG", "syslog"},
	{"CAP_BPF", "bpf"},
	{"CAP_PERFMON", "perf_event_open"},
}

// allowedCalls act on the caller, its own processes and files only, or are
// checked by the kernel itself. Not among them: io_uring, which gets around
// the filter; keyrings, which are not namespaced; userfaultfd, which helps to
// win races in the kernel.
const allowedCalls = `
	_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown
	chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
	clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
	epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
	exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat
	fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr
	fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue
	futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd
	getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
	getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32
	getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
	inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
	io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
	landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
	listxattrat llistxattr lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 madvise map_shadow_stack membarrier
	memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect
	mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
	mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
	newfstatat nice open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
	pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv
	process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readdir readlink
	readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat
	rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
	rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
	sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
	sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
	seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg
	sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
	setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
	setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl
	shmdt shmget shutdown sigaction sigaltstack signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend
	socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs
	sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
	timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill
	truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes
	vfork vmsplice wait4 waitid waitpid write writev
`
