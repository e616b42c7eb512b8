// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// sleeper runs a process until the end of the test.
func sleeper(t *testing.T) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

func bundleOf(t *testing.T, pid int, written time.Time) bundle {
	t.Helper()
	b := bundle{ns: ns, id: "c", path: t.TempDir()}
	if err := os.WriteFile(b.file(filePid), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(b.file(filePid), written, written); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFirstProcessIsKnownByItsStart(t *testing.T) {
	pid := sleeper(t)
	p, err := bundleOf(t, pid, time.Now()).firstProcess()
	if err != nil || p.pid != pid || p.start == 0 {
		t.Fatal(p, err)
	}
	if _, err := bundleOf(t, pid, time.Now().Add(-time.Minute)).firstProcess(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the number was used again after the file was written: %v", err)
	}
	for _, bad := range []int{0, 1, -5} {
		if p, err := bundleOf(t, bad, time.Now()).firstProcess(); err == nil {
			t.Errorf("pid %d: %+v", bad, p)
		}
	}
}

func TestSignalSparesASuccessor(t *testing.T) {
	pid := sleeper(t)
	start, err := startOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := (process{pid: pid, start: start - 1}).signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process that started at another time: %v", err)
	}
	if err := (process{pid: pid, start: start}).signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process has not survived: %v", err)
	}
	if killed, err := (process{pid: pid, start: start}).end(t.Context()); err != nil || !killed {
		t.Error(killed, err)
	}
	if killed, err := (process{}).end(t.Context()); err != nil || killed {
		t.Error(killed, err)
	}
}

func TestCgroupPath(t *testing.T) {
	data := []byte("12:freezer:/test/c\n3:cpu,cpuacct:/x\n1:name=systemd:/user.slice\n0::/unified:with:colons\n")
	for controller, want := range map[string]string{"freezer": "/test/c", "": "/unified:with:colons", "memory": ""} {
		if got := cgroupPath(data, controller); got != want {
			t.Errorf("%q is %q, want %q", controller, got, want)
		}
	}
}

func TestOwnCgroupIsNotTheContainers(t *testing.T) {
	if c := cgroupOf(os.Getpid(), "no-such-container"); c != (cgroup{}) {
		t.Errorf("%+v would be killed", c)
	}
}

func TestKillInNeedsDirectoryAndBinary(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(sleep, "1000")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	killIn(dir, filepath.Join(dir, "another"))
	killIn(filepath.Dir(dir), sleep)
	if _, err := startOf(cmd.Process.Pid); err != nil {
		t.Fatalf("another process was killed: %v", err)
	}
	killIn(dir, sleep)
	<-done
}

func TestUserNamespaceRootPassesThroughBundle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing the owner needs root")
	}
	h := &host{dir: t.TempDir()}
	x, err := NewShims("task", h.config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := x.bundle(ns, "c")
	if err := b.make([]byte(`{"linux":{"gidMappings":[{"containerID":5,"hostID":7,"size":1},{"containerID":0,"hostID":4711,"size":10}]}}`)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(b.path)
	if err != nil || info.Mode().Perm() != 0o710 || info.Sys().(*syscall.Stat_t).Gid != 4711 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := b.make([]byte("no json")); err == nil {
		t.Error("a spec that is no JSON is accepted")
	}
	if _, err := os.Lstat(b.path); !os.IsNotExist(err) {
		t.Errorf("the bundle is left: %v", err)
	}
}

func TestContainersDataIsNotRemoved(t *testing.T) {
	h := &host{dir: t.TempDir()}
	x, err := NewShims("task", h.config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := x.bundle(ns, "c")
	if err := b.make(nil); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(b.file(dirRootfs), "data")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.remove(); err == nil {
		t.Error("a root file system that holds data was removed")
	}
	if _, err := os.Stat(data); err != nil {
		t.Error(err)
	}
}
