// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/test/host"
)

// newPodman is Debian's, with a store of its own and a runtime that is not its own.
func newPodman(t *testing.T, runtime string) *program {
	t.Helper()
	host.Need(t, "podman", "conmon", runtime)
	dir := host.TempDir(t)
	p := &program{t: t, name: "podman", line: []string{
		"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
		"--runtime", runtime, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs",
	}}
	t.Cleanup(func() {
		p.try("rm", "-f", "-a", "-t", "0")
		// Podman's own, which it keeps.
		kept, _ := filepath.Glob("/sys/fs/cgroup/*/libpod_parent/conmon")
		for _, dir := range kept {
			os.Remove(dir)
		}
	})
	return p
}

func TestPodmanRunsOurRuntime(t *testing.T) {
	p := newPodman(t, filepath.Join(host.Bin(), "runc"))
	p.do("load", "-q", "-i", archive(t))
	// Podman's default limits are above what this machine allows.
	run := []string{"run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}
	if out := p.do(append(run, "--rm", "busybox", "echo", "hi")...); out != "hi\n" {
		t.Errorf("run printed %q", out)
	}
	if r := p.try(append(run, "--rm", "busybox", "sh", "-c", "exit 7")...); r.Code != 7 {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	if r := p.try(append(run, "--rm", "busybox", "nosuch")...); r.Code != 127 {
		t.Errorf("a command that does not exist: exit code %d: %s", r.Code, r.Stderr)
	}
	p.do(append(run, "-d", "--name", "up", "--memory", "64m", "--pids-limit", "50", "busybox", "sleep", "1000")...)
	if out := p.do("exec", "up", "sh", "-c", "echo in; cat /proc/1/comm"); out != "in\nsleep\n" {
		t.Errorf("exec printed %q", out)
	}
	if out := p.do("exec", "-u", "65534", "-w", "/tmp", "up", "sh", "-c", "id -u; pwd"); out != "65534\n/tmp\n" {
		t.Errorf("exec as a user printed %q", out)
	}
	if out := p.do("top", "up"); !strings.Contains(out, "sleep 1000") {
		t.Errorf("top: %q", out)
	}
	p.do("pause", "up")
	p.do("unpause", "up")
	p.do("stats", "--no-stream", "up")
	p.do("kill", "up")
	if out := p.do("wait", "up"); out != "137\n" {
		t.Errorf("wait printed %q", out)
	}
	p.do("rm", "up")
}
