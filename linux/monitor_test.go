// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOwnTimers checks that a program that is started has the timers that this
// process had, on a thread that has the monitor's.
func TestOwnTimers(t *testing.T) {
	before, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil {
		t.Skip(err)
	}
	if err := CalmMonitor(time.Millisecond); os.IsPermission(err) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // the thread ends with the test
	if err := Prctl("set timer slack", unix.PR_SET_TIMERSLACK, uintptr(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	cat := exec.Command("cat", "/proc/self/timerslack_ns")
	cat.Stdout = &got
	if err := OwnTimers(cat.Start); err != nil {
		t.Fatal(err)
	}
	if err := cat.Wait(); err != nil {
		t.Fatal(err)
	}
	if got.String() != string(before) {
		t.Errorf("timer slack of a program is %s, want %s", got.String(), before)
	}
}
