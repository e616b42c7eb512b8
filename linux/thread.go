// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnOwnThread calls f on a thread that ends when f returns, so that f may put
// it into other namespaces. It is never the first thread of the process: that
// one does not end, and /proc/self shows its namespaces and mounts.
func OnOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // held, the next goroutine is on another
			done <- OnOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
