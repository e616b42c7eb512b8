// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// underFilter makes this test binary, executed again, load the default profile
// and print what some system calls answer.
const underFilter = "SECCOMP_TEST_UNDER_FILTER"

func TestMain(m *testing.M) {
	if os.Getenv(underFilter) != "" {
		callUnderFilter()
		return
	}
	os.Exit(m.Run())
}

func callUnderFilter() {
	runtime.LockOSThread()
	out, err := Compile(defaultProfile(&testing.T{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		fmt.Println(err)
		return
	}
	prog := unix.SockFprog{Len: uint16(len(out.Filter)), Filter: &out.Filter[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(out.Flags), uintptr(unsafe.Pointer(&prog))); errno != 0 {
		fmt.Println("seccomp:", errno)
		return
	}
	for _, c := range []struct {
		name  string
		nr, a uintptr
	}{
		{"unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUTS},
		{"clone3", unix.SYS_CLONE3, 0},
		{"a call of the future", 2000, 0},
		{"personality", unix.SYS_PERSONALITY, 0xffffffff},
		{"another personality", unix.SYS_PERSONALITY, 0x0400000},
		{"close", unix.SYS_CLOSE, ^uintptr(0)},
		{"AF_VSOCK", unix.SYS_SOCKET, unix.AF_VSOCK},
	} {
		_, _, errno := unix.RawSyscall(c.nr, c.a, 0, 0)
		fmt.Printf("%s: %d\n", c.name, errno)
	}
}

func TestTheKernelObeysTheDefaultProfile(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), underFilter+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := fmt.Sprintf("unshare: %d\nclone3: %d\na call of the future: %d\npersonality: 0\nanother personality: %d\nclose: %d\nAF_VSOCK: %d\n",
		unix.EPERM, unix.ENOSYS, unix.ENOSYS, unix.EPERM, unix.EBADF, unix.EPERM)
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", strings.TrimSpace(string(out)), want)
	}
}
