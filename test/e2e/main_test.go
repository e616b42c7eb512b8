// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the built commands as a user would, as root, with a daemon
// and a registry of its own.
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"slipway/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// start starts our daemon with the image busybox:latest, pulled from a
// registry, and returns both.
func start(t *testing.T) (*host.Daemon, string) {
	t.Helper()
	d := host.Start(t, host.Options{})
	ref := host.StartRegistry(t).Push(t, host.Busybox(t), "library/busybox:latest")
	d.Ctr(t, "images", "pull", "--plain-http", ref)
	return d, ref
}

// status is the state that `ctr t ls` shows of a task, or empty.
func status(t *testing.T, d *host.Daemon, id string) string {
	t.Helper()
	for _, line := range strings.Split(d.Ctr(t, "t", "ls"), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// fails requires a command of ctr to fail with code, any if 0, and with text
// in stderr.
func fails(t *testing.T, d *host.Daemon, code int, text string, args ...string) {
	t.Helper()
	r := d.Try(t, args...)
	if r.Code == 0 || code != 0 && r.Code != code || !strings.Contains(r.Stderr, text) {
		t.Errorf("ctr %s: exit code %d, stderr %q; want %d, %q", strings.Join(args, " "), r.Code, r.Stderr, code, text)
	}
}

// pullArgs are the arguments of ctr that pull from a registry without TLS.
func pullArgs(args ...string) []string {
	return append([]string{"i", "pull", "--plain-http"}, args...)
}

// remove kills and removes a container that runs.
func remove(t *testing.T, d *host.Daemon, id string) {
	t.Helper()
	d.Ctr(t, "t", "rm", "-f", id)
	d.Ctr(t, "c", "rm", id)
}

// empty requires that the daemon soon holds nothing but its images: no
// container, task, lease, ingest, or snapshot that is not committed.
func empty(t *testing.T, d *host.Daemon) {
	t.Helper()
	var left []string
	defer func() {
		if t.Failed() {
			t.Logf("left: %q", left)
		}
	}()
	host.Until(t, "nothing is left", func() bool {
		left = remaining(t, d)
		return len(left) == 0
	})
}

// remaining lists what the daemon holds beside its images, and what there is
// of tasks on the machine.
func remaining(t *testing.T, d *host.Daemon) (left []string) {
	t.Helper()
	for _, args := range [][]string{{"c", "ls", "-q"}, {"t", "ls", "-q"}, {"leases", "ls", "-q"}} {
		for _, id := range strings.Fields(d.Ctr(t, args...)) {
			left = append(left, args[0]+" "+id)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(d.Ctr(t, "content", "active")), "\n")[1:] {
		left = append(left, "ingest "+line)
	}
	for _, line := range strings.Split(d.Ctr(t, "snapshots", "ls"), "\n") {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] != "KIND" && f[len(f)-1] != "Committed" {
			left = append(left, "snapshot "+line)
		}
	}
	return append(left, onDisk(t, d)...)
}

// onDisk lists what there is of ingests and tasks outside the daemon's memory.
// Cgroups, FIFOs and states of runtimes are found by the names of host.Unique.
func onDisk(t *testing.T, d *host.Daemon) (left []string) {
	t.Helper()
	ours := fmt.Sprintf("*-%d-*", os.Getpid())
	for _, pattern := range []string{
		d.Dir + "/root/io.containerd.content.v1.content/ingest/*",
		d.Dir + "/root/io.containerd.runtime.v2.task/*/*",
		d.Dir + "/state/io.containerd.runtime.v2.task/*/*",
		d.Dir + "/s/*",
		"/run/containerd/fifo/*/" + ours,
		"/run/containerd/runc/default/" + ours,
		"/sys/fs/cgroup/default/" + ours,
		"/sys/fs/cgroup/*/default/" + ours,
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(d.Dir + "/"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		left = append(left, "mount "+m.Mountpoint)
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range commands {
		line, _ := os.ReadFile(file) // it may have ended
		name, _, _ := strings.Cut(string(line), "\x00")
		if strings.Contains(string(line), d.Dir) && filepath.Base(name) != "containerd" && filepath.Base(name) != "ctr" {
			left = append(left, "process "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}
