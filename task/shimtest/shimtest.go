// SPDX-License-Identifier: Apache-2.0

// Package shimtest is a shim for tests: the test's own executable under
// another name. Its containers are processes that sleep.
package shimtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	name   = "containerd-shim-fake-v3"
	envDir = "SHIMTEST_DIR"
)

// Options says how a shim behaves. The zero value is a good one.
type Options struct {
	Reply    string // "proto" (also empty), "json", "plain", "noise", "newer", "fail", "hang"
	Version  int    // of the task API, 3 if zero
	Protocol string // "ttrpc" (also empty) or "grpc"
	Create   string // "", "fail", "hang", "die", "old": API version 3 is not served
	Delete   string // of the binary: "" or "fail"
}

// Any encodes the options as those of a runtime.
func (o Options) Any() *anypb.Any {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return &anypb.Any{TypeUrl: "shimtest.Options", Value: data}
}

// Main runs the shim if this process is one; TestMain calls it first.
func Main() {
	if filepath.Base(os.Args[0]) != name {
		return
	}
	if err := run(os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Install returns the path of a shim. Processes that are left of it are
// killed at the end of the test.
func Install(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Sockets have short paths, t.TempDir has not.
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.Symlink(exe, path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range Left(path) {
			unix.Kill(pid, unix.SIGKILL)
		}
		Eventually(t, "the shim's processes to end", func() bool { return len(Left(path)) == 0 })
		os.RemoveAll(dir)
	})
	return path
}

// Left lists the processes of an installed shim and its containers.
func Left(path string) (pids []int) {
	list, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range list {
		env, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(env), envDir+"="+filepath.Dir(path)+"\x00") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if state, err := os.ReadFile(filepath.Join(filepath.Dir(f), "stat")); err == nil && !strings.Contains(string(state), ") Z ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Pid reads the process of the shim that runs in a bundle.
func Pid(t testing.TB, bundle string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(bundle, "shim.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Stop freezes a process: SIGSTOP takes effect a while after it was sent.
func Stop(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "a process to stop", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, f := range threads {
			if state, err := os.ReadFile(f); err == nil && !strings.Contains(string(state), ") T ") {
				return false
			}
		}
		return len(threads) > 0
	})
}

// Eventually waits for a condition.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
