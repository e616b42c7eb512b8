// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnOwnThreadIsNotTheFirstAndIsNotUsedAgain(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	inside := make(chan string, 1)
	if err := OnOwnThread(func() error {
		if unix.Gettid() == unix.Getpid() {
			return errors.New("the first thread")
		}
		if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
			return err
		}
		ns, err := os.Readlink("/proc/thread-self/ns/uts")
		inside <- ns
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if ns := <-inside; ns == before {
		t.Errorf("namespace is %s", ns)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if ns, _ := os.Readlink("/proc/thread-self/ns/uts"); ns != before {
				t.Errorf("a goroutine is in %s, not in %s", ns, before)
			}
			OnOwnThread(func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("the first thread")
				}
				return nil
			})
		})
	}
	all.Wait()
}
