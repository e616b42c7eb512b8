// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"slipway/test/host"
	"slipway/test/hub"
)

// shimOf finds the process of a container's shim.
func shimOf(t *testing.T, d *host.Daemon, id string) int {
	t.Helper()
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range commands {
		line, _ := os.ReadFile(file) // it may have ended
		if s := string(line); strings.Contains(s, "containerd-shim") && strings.Contains(s, "\x00"+id+"\x00") && strings.Contains(s, d.Address) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no shim of %s", id)
	return 0
}

// taskPid is the process id of a task.
func taskPid(t *testing.T, d *host.Daemon, id string) (pid int) {
	t.Helper()
	for _, line := range strings.Split(d.Ctr(t, "t", "ls"), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			fmt.Sscan(f[1], &pid)
			return pid
		}
	}
	t.Fatalf("no task %s", id)
	return 0
}

// ended says whether a process is gone, or dead and not waited for.
func ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestShimKilled(t *testing.T) {
	d, ref := start(t)
	id := host.Unique("shim")
	d.Ctr(t, "run", "-d", ref, id, "sh", "-c", "sleep 1000 & sleep 1000; true")
	pid := taskPid(t, d, id)
	events := watch(t, d)
	if err := syscall.Kill(shimOf(t, d, id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	events.until("/tasks/exit", id, `"exit_status":137`)
	events.until("/tasks/delete", id)
	host.Until(t, "the container has ended", func() bool { return ended(pid) && status(t, d, id) == "" })
	d.Ctr(t, "run", "--rm", ref, host.Unique("next"), "true")
	d.Ctr(t, "c", "rm", id)
	empty(t, d)
}

// A client that waits for a container hears of the end of its shim.
func TestShimKilledUnderAClient(t *testing.T) {
	d, ref := start(t)
	id := host.Unique("shim")
	cmd := startCtr(t, d, "run", "--rm", ref, id, "sleep", "1000")
	host.Until(t, "the container runs", func() bool { return status(t, d, id) == "RUNNING" })
	if err := syscall.Kill(shimOf(t, d, id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() == 0 {
		t.Error("ctr says that all is well")
	}
	empty(t, d)
}

func TestContainerOfAStoppedShimCanBeKilled(t *testing.T) {
	d, ref := start(t)
	id := host.Unique("stopped")
	d.Ctr(t, "run", "-d", ref, id, "sleep", "1000")
	pid, shim := taskPid(t, d, id), shimOf(t, d, id)
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(shim, syscall.SIGCONT)
	d.Ctr(t, "t", "kill", "-s", "SIGKILL", id)
	host.Until(t, "the container has ended", func() bool { return ended(pid) })
	d.Try(t, "t", "rm", "-f", id)
	d.Ctr(t, "c", "rm", id)
	empty(t, d)
}

// Only who asks for a container whose shim does not answer waits.
func TestStoppedShimHoldsUpNobodyElse(t *testing.T) {
	d, ref := start(t)
	stuck, same, other := host.Unique("stuck"), host.Unique("same"), host.Unique("other")
	d.Ctr(t, "run", "-d", ref, stuck, "sleep", "1000")
	shim := shimOf(t, d, stuck)
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waits := startCtr(t, d, "t", "exec", "--exec-id", "e", stuck, "true")
	waited := make(chan error, 1)
	go func() { waited <- waits.Wait() }()
	in := func(ns string, args ...string) string { return d.Ctr(t, append([]string{"-n", ns}, args...)...) }
	for ns, id := range map[string]string{"default": same, "k8s.io": other} {
		in(ns, "i", "pull", "--plain-http", ref)
		in(ns, "run", "-d", ref, id, "sleep", "1000")
		if list := in(ns, "t", "ls"); !strings.Contains(list, "RUNNING") {
			t.Errorf("in namespace %s: %s", ns, list)
		}
		in(ns, "c", "ls")
		in(ns, "t", "ps", id)
		in(ns, "t", "metrics", id)
		if out := in(ns, "t", "exec", "--exec-id", "e", id, "echo", "well"); out != "well\n" {
			t.Errorf("exec in namespace %s printed %q", ns, out)
		}
		in(ns, "t", "pause", id)
		in(ns, "t", "resume", id)
		in(ns, "t", "kill", "-s", "SIGKILL", id)
		host.Until(t, "the task is stopped", func() bool { return strings.Contains(in(ns, "t", "ls"), "STOPPED") })
		d.Try(t, "-n", ns, "t", "rm", id)
		in(ns, "c", "rm", id)
	}
	select {
	case err := <-waited:
		t.Errorf("who asked the shim that is stopped did not wait: %v", err)
	default:
	}
	// Nor does the daemon when it starts.
	d.Kill(t)
	syscall.Kill(shim, syscall.SIGSTOP) // the kernel lets what is stopped go on when its parent ends
	d.Run(t)
	if list := d.Ctr(t, "t", "ls"); !strings.Contains(list, stuck) || !strings.Contains(list, "UNKNOWN") {
		t.Errorf("a new daemon lists %s", list)
	}
	<-waited
	syscall.Kill(shim, syscall.SIGCONT)
	host.Until(t, "the shim answers", func() bool { return status(t, d, stuck) == "RUNNING" })
	remove(t, d, stuck)
	empty(t, d)
}

// A container goes on without the client that started it, and can be removed.
func TestClientKilledDuringRun(t *testing.T) {
	d, ref := start(t)
	id := host.Unique("orphan")
	cmd := startCtr(t, d, "run", ref, id, "sh", "-c", "while :; do echo much; done")
	host.Until(t, "the container runs", func() bool { return status(t, d, id) == "RUNNING" })
	cmd.Process.Kill()
	cmd.Wait()
	if s := status(t, d, id); s != "RUNNING" {
		t.Errorf("the container is %q", s)
	}
	remove(t, d, id)
	empty(t, d)
}

// Wherever the client of a run is killed, the container can be removed, and
// nothing but a lease that ends by itself is left.
func TestClientKilledAtAnyMomentOfARun(t *testing.T) {
	d, ref := start(t)
	id := host.Unique("moment")
	for step := range 8 {
		cmd := startCtr(t, d, "run", "--rm", ref, id, "sleep", "1000")
		spin(step)
		cmd.Process.Kill()
		cmd.Wait()
		host.Until(t, "the container can be removed", func() bool {
			d.Try(t, "t", "rm", "-f", id)
			d.Try(t, "c", "rm", id)
			endLeases(t, d)
			return len(remainingBesideFIFOs(t, d)) == 0
		})
	}
}

// remainingBesideFIFOs leaves out the FIFOs of a client that was killed before
// the daemon knew of them.
func remainingBesideFIFOs(t *testing.T, d *host.Daemon) (left []string) {
	for _, l := range remaining(t, d) {
		if !strings.HasPrefix(l, "/run/containerd/fifo/") {
			left = append(left, l)
			continue
		}
		os.RemoveAll(filepath.Dir(l))
	}
	return left
}

// A process of exec goes on without its client, and ends with the container.
func TestClientKilledDuringExec(t *testing.T) {
	d, ref := start(t)
	id, execID := host.Unique("up"), host.Unique("exec")
	d.Ctr(t, "run", "-d", ref, id, "sleep", "1000")
	cmd := startCtr(t, d, "t", "exec", "--exec-id", execID, id, "sh", "-c", "touch /on; sleep 1000; true")
	host.Until(t, "the process runs", func() bool {
		return d.Try(t, "t", "exec", "--exec-id", host.Unique("look"), id, "ls", "/on").Code == 0
	})
	cmd.Process.Kill()
	cmd.Wait()
	fails(t, d, 1, "already exists", "t", "exec", "--exec-id", execID, id, "true")
	fails(t, d, 137, "", "t", "rm", "-f", "--exec-id", execID, id)
	if out := d.Ctr(t, "t", "exec", "--exec-id", execID, id, "echo", "again"); out != "again\n" {
		t.Errorf("the exec id is not free again: %q", out)
	}
	remove(t, d, id)
	empty(t, d)
}

func TestClientKilledInTheMiddleOfABlob(t *testing.T) {
	d := host.Start(t, host.Options{})
	h := hub.New(t, hub.Options{})
	ref := smallImage(h)
	h.Fail(hub.Fault{Path: "/blobs/", Stall: 10})
	pull := startCtr(t, d, pullArgs(ref)...)
	host.Until(t, "a blob is on its way", func() bool {
		return slices.ContainsFunc(h.Requests(), func(r hub.Request) bool { return strings.Contains(r.Path, "/blobs/") })
	})
	pull.Process.Kill()
	pull.Wait()
	empty(t, d)
	h.Heal()
	d.Ctr(t, pullArgs(ref)...)
}

// spin lets a moment pass that grows with step: it runs short commands.
func spin(step int) {
	for range step * 3 {
		exec.Command("true").Run()
	}
}
