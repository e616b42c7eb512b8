// SPDX-License-Identifier: Apache-2.0

// Package clients runs the programs that stand on containerd against ours, as
// their users do.
package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"slipway/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// docker is Debian's dockerd on a containerd, in a network namespace of its
// own, so that its bridge and its packet filter are not the host's.
type docker struct{ program }

func startDocker(t *testing.T, d *host.Daemon, flags ...string) *docker {
	t.Helper()
	unpacked := filepath.Join(host.Root(), ".cache", "docker", "usr")
	host.Need(t, filepath.Join(unpacked, "sbin", "dockerd"), "unshare", "iptables")
	dir := host.TempDir(t)
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	k := &docker{program{t: t, name: "docker", line: []string{filepath.Join(unpacked, "bin", "docker"), "-H", socket}}}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := append([]string{"-n", "--", "sh", "-c", `ip link set lo up 2>/dev/null; exec "$@"`, "sh", filepath.Join(unpacked, "sbin", "dockerd"),
		"--containerd", d.Address, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", socket, "--storage-driver", "overlay2"}, flags...)
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(unpacked, "sbin")+":"+filepath.Join(unpacked, "bin")+":"+strings.TrimPrefix(d.Path(), "PATH="))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(k.try("ps", "-aq").Stdout) {
			k.try("rm", "-f", id)
		}
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("dockerd's log:\n%s", text[max(0, len(text)-4096):])
		}
	})
	host.Until(t, "dockerd answers", func() bool { return k.try("version").Code == 0 })
	return k
}

// archive is the image busybox:latest as `docker load` reads it.
func archive(t *testing.T) string {
	t.Helper()
	file := filepath.Join(host.TempDir(t), "busybox.tar")
	host.Must(t, "skopeo", "copy", "-q", "--insecure-policy", "oci:"+host.Busybox(t), "docker-archive:"+file+":busybox:latest")
	return file
}

func TestDocker(t *testing.T) {
	host.NeedBuilt(t)
	d := host.Start(t, host.Options{})
	k := startDocker(t, d)
	useDocker(t, k)
	k.outlives(d)
}

// outlives claims that containers run on while the daemon below dockerd is
// another one, and that their ends are heard of.
func (k *docker) outlives(d *host.Daemon) {
	k.t.Helper()
	k.do("run", "-d", "--name", "stays", "busybox", "sleep", "inf")
	pid := k.do("inspect", "-f", "{{.State.Pid}}", "stays")
	d.Kill(k.t)
	d.Run(k.t)
	host.Until(k.t, "dockerd has found the new daemon", func() bool { return k.try("exec", "stays", "true").Code == 0 })
	k.want(pid, "inspect", "-f", "{{.State.Pid}}", "stays")
	k.do("kill", "stays")
	k.want("137\n", "wait", "stays")
	k.do("rm", "stays")
}

// useDocker does what Docker's users do.
func useDocker(t *testing.T, k *docker) {
	t.Helper()
	k.do("load", "-i", archive(t))
	k.want("hi\n", "run", "--rm", "busybox", "echo", "hi")
	if r := k.try("run", "--rm", "busybox", "sh", "-c", "exit 7"); r.Code != 7 {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	if r := k.try("run", "--rm", "busybox", "nosuch"); r.Code != 127 {
		t.Errorf("a command that does not exist: exit code %d: %s", r.Code, r.Stderr)
	}
	k.do("run", "-d", "--name", "up", "--hostname", "inside", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox", "sh", "-c", "echo started; trap 'exit 3' TERM; while :; do sleep 0.1; done")
	k.want("inside\n", "exec", "up", "hostname")
	if r := k.try("exec", "up", "sh", "-c", "exit 9"); r.Code != 9 {
		t.Errorf("exec: exit code %d", r.Code)
	}
	k.want("started\n", "logs", "up")
	if out := k.do("stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "up"); !strings.Contains(out, "64MiB") {
		t.Errorf("stats: %q", out)
	}
	if out := k.do("top", "up"); !strings.Contains(out, "trap") {
		t.Errorf("top: %q", out)
	}
	k.do("pause", "up")
	k.want("paused\n", "inspect", "-f", "{{.State.Status}}", "up")
	k.do("unpause", "up")
	k.do("update", "--memory", "96m", "--memory-swap", "96m", "up")
	k.do("restart", "-t", "5", "up")
	k.want("running\n", "inspect", "-f", "{{.State.Status}}", "up")
	k.do("stop", "-t", "5", "up")
	k.want("3\n", "inspect", "-f", "{{.State.ExitCode}}", "up")
	k.do("start", "up")
	k.do("kill", "up")
	k.want("137\n", "wait", "up")
	k.do("rm", "up")

	k.do("network", "create", "net1")
	k.do("run", "-d", "--name", "server", "--network", "net1", "busybox", "sh", "-c", "mkdir /www; echo served >/www/index.html; httpd -f -p 80 -h /www")
	host.Until(t, "one container reaches the other by name", func() bool {
		return k.try("run", "--rm", "--network", "net1", "busybox", "wget", "-q", "-O", "-", "http://server/").Stdout == "served\n"
	})
	k.do("rm", "-f", "server")
	k.do("network", "rm", "net1")

	k.want("", "ps", "-aq")
}
