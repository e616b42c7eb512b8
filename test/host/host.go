// SPDX-License-Identifier: Apache-2.0

// Package host gives end-to-end tests what they stand on: a daemon with a root
// of its own, a registry on loopback, images made from Debian's packages, and
// a look at the machine before and after, so that a test that leaves something
// behind fails.
//
// Everything needs root and the programs of scripts/setup.sh; a test on a
// machine without them is skipped, and says what is missing.
package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Patience bounds every wait of a test. It is long, because a loaded machine
// must not fail a test that is right.
const Patience = 60 * time.Second

// Root is the root of the checkout.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Bin is the directory of the built commands. SLIPWAY_BIN names another one: a
// suite can be tried on upstream's commands first.
func Bin() string {
	if dir := os.Getenv("SLIPWAY_BIN"); dir != "" {
		return dir
	}
	return filepath.Join(Root(), "bin")
}

// Peers is the directory of upstream's commands.
func Peers() string { return filepath.Join(Root(), ".cache", "peers") }

// Need skips the test unless it runs as root and every program is there. A
// name without a slash is looked for in PATH.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: run make setup", p)
		}
	}
}

// NeedBuilt skips the test unless the commands were built.
func NeedBuilt(t testing.TB) {
	t.Helper()
	Need(t, filepath.Join(Bin(), "containerd"), filepath.Join(Bin(), "ctr"), filepath.Join(Bin(), "containerd-shim-runc-v2"))
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Exec runs a command to its end, with env added to the environment and input
// as its stdin, and returns how it ended. It fails the test if the command
// cannot be started or does not end in Patience.
func Exec(t testing.TB, env []string, input, name string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*Patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s: did not end: %s%s", name, strings.Join(args, " "), stdout.String(), stderr.String())
	}
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Must runs a command that must succeed and returns its stdout.
func Must(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := Exec(t, nil, "", name, args...)
	if r.Code != 0 {
		t.Fatalf("%s %s: exit code %d: %s%s", name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Until polls ok until it is true, and fails the test if it never is.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("gave up waiting: %s", what)
}

// TempDir is a short temporary directory, so that sockets below it have names
// of a legal length. It is removed when the test ends, and the test fails if
// something is still mounted below it.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slipway")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m := mountsBelow(dir); len(m) > 0 {
			t.Errorf("left mounted: %s", strings.Join(m, " "))
			unmount(m)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// counter numbers the names that tests of one process ask for.
var counter atomic.Int64

// Unique returns prefix with a suffix that no other call, of any process that
// runs now, returns.
func Unique(prefix string) string {
	return fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), counter.Add(1))
}
