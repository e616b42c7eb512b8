// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ownSlack is the timer slack of the process in nanoseconds, while that of its
// monitor thread is another.
var ownSlack atomic.Int64

// CalmMonitor lets the kernel wake Go's monitor thread that much late. The
// monitor looks every 20 µs whether a thread is to be relieved, and for a
// program that works for milliseconds at a time that is a fifth of its CPU.
// Late, it takes longer to relieve one that waits in the kernel.
//
// Threads that the monitor makes have its slack, and so do programs that they
// start: those are to be started under OwnTimers. It needs Linux 4.6, and
// CAP_SYS_NICE.
func CalmMonitor(late time.Duration) error {
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return callError("prctl get timer slack", err)
	}
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return err
	}
	defer dir.Close()
	threads, err := dir.Readdirnames(2) // in the order in which they were made
	if err != nil {
		return err
	}
	if len(threads) < 2 {
		return errors.New("/proc/self/task: no monitor thread")
	}
	ownSlack.Store(int64(own))
	return os.WriteFile("/proc/"+threads[1]+"/timerslack_ns", strconv.AppendInt(nil, late.Nanoseconds(), 10), 0)
}

// OwnTimers calls start, which starts a program, so that the timers of that are
// as exact as those of this process were before CalmMonitor.
func OwnTimers(start func() error) error {
	own := ownSlack.Load()
	if own == 0 {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := Prctl("set timer slack", unix.PR_SET_TIMERSLACK, uintptr(own)); err != nil {
		return err
	}
	return start()
}
