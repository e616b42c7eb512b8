// SPDX-License-Identifier: Apache-2.0

package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tool finds a program by its name or in the cache, or skips the test.
func tool(t *testing.T, name, cached string) string {
	t.Helper()
	if cached != "" {
		if path, err := filepath.Abs(filepath.Join("../../.cache", cached)); err == nil && exists(path) {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: scripts/setup.sh installs it", name)
	}
	return path
}

// A client is a program that calls the OCI runtime, with its options.
type client struct {
	t       *testing.T
	command []string
	env     []string
}

// try runs a command of the client. One that hangs is killed.
func (c *client) try(stdin string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.command[0], append(c.command[1:len(c.command):len(c.command)], args...)...)
	cmd.Env = append(os.Environ(), c.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	cmd.WaitDelay = 10 * time.Second // for what a container may hold on to
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%v: %v", args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// want runs a command and checks what it prints and its status.
func (c *client) want(stdout string, status int, args ...string) {
	c.t.Helper()
	if r := c.try("", args...); r.stdout != stdout || r.status != status {
		c.t.Errorf("%v: status %d, want %d, printed %q, want %q: %s", args, r.status, status, r.stdout, stdout, r.stderr)
	}
}

func (c *client) ok(args ...string) string {
	c.t.Helper()
	r := c.try("", args...)
	if r.status != 0 {
		c.t.Fatalf("%v: status %d: %s", args, r.status, r.stderr)
	}
	return r.stdout
}

// serve starts a daemon for the time of the test.
func serve(t *testing.T, ready func() bool, env []string, command ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s: %s", command[0], text)
		}
	})
	for end := time.Now().Add(time.Minute); !ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s does not answer: %s", command[0], text)
		}
	}
}

// removePodmanGroups removes the groups that podman keeps for the next time,
// those of its monitors too, once these have ended.
func removePodmanGroups() {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var dirs []string
		filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(path, "/libpod_parent") {
				dirs = append(dirs, path)
			}
			return nil
		})
		if len(dirs) == 0 {
			return
		}
		for _, dir := range slices.Backward(dirs) {
			syscall.Rmdir(dir)
		}
	}
}

func TestPodman(t *testing.T) {
	podman := tool(t, "podman", "")
	tool(t, "conmon", "")
	t.Cleanup(removePodmanGroups)
	l := newLab(t, runc)
	c := &client{t: t, command: []string{
		podman, "--root", l.dir + "/root", "--runroot", l.dir + "/run", "--tmpdir", l.dir + "/tmp", "--storage-driver", "vfs",
		"--cgroup-manager", "cgroupfs", "--events-backend", "file", "--network-config-dir", l.dir + "/net", "--runtime", runc,
	}}
	tar := exec.Command("tar", "-C", l.dir+"/rootfs", "-cf", l.dir+"/image.tar", ".")
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.ok("import", l.dir+"/image.tar", "localhost/busybox")
	// Limits below those of the tests, which may not be raised everywhere.
	run := []string{"run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}
	once := append(run, "--rm", "localhost/busybox")
	c.want("hello\n", 0, append(once, "echo", "hello")...)
	c.want("", 5, append(once, "sh", "-c", "exit 5")...)
	c.want("", 127, append(once, "nonexistent")...)
	if r := c.try("piped", append(run, "--rm", "-i", "localhost/busybox", "cat")...); r.stdout != "piped" {
		t.Errorf("cat: %+v", r)
	}
	c.want("uid=1000 gid=0 groups=0\n", 0, append(run, "--rm", "--user", "1000", "--cap-drop", "all", "localhost/busybox", "id")...)

	t.Cleanup(func() { c.try("", "rm", "--force", "--time", "0", l.name) })
	c.ok(append(run, "-d", "--name", l.name, "--memory", "64m", "--pids-limit", "30", "localhost/busybox", "sleep", "1000")...)
	podmanCommands(c, l.name)
}

// podmanCommands goes through what podman does with a running container.
func podmanCommands(c *client, name string) {
	c.want("in\n", 0, "exec", name, "/bin/echo", "in")
	c.want("", 9, "exec", name, "sh", "-c", "exit 9")
	c.want("1\n", 0, "stats", "--no-stream", "--format", "{{.PIDs}}", name)
	if top := c.ok("top", name); !strings.Contains(top, "sleep 1000") {
		c.t.Errorf("top: %s", top)
	}
	c.ok("pause", name)
	c.want("paused\n", 0, "inspect", "--format", "{{.State.Status}}", name)
	c.ok("unpause", name)
	c.ok("update", "--memory", "128m", name)
	c.ok("kill", "--signal", "KILL", name)
	c.want("137\n", 0, "wait", name)
	c.ok("restart", "--time", "0", name)
	c.want("", 0, "exec", name, "true")
	c.ok("stop", "--time", "0", name)
	c.ok("rm", name)
}

// upstream starts containerd 2.3.4 with its shim.
func upstream(t *testing.T, dir string) (ctr *client, address string) {
	t.Helper()
	containerd := tool(t, "containerd", "peers/containerd")
	peers := filepath.Dir(containerd)
	if !exists(peers + "/containerd-shim-runc-v2") {
		t.Skip("needs containerd-shim-runc-v2: scripts/setup.sh builds it")
	}
	address = dir + "/c.sock"
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		dir+"/croot", dir+"/cstate", address, address+".ttrpc")
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	ctr = &client{t: t, command: []string{tool(t, "ctr", "peers/ctr"), "--address", address}}
	path := "PATH=" + peers + ":" + os.Getenv("PATH")
	serve(t, func() bool { return ctr.try("", "version").status == 0 }, []string{path}, containerd, "--config", dir+"/config.toml")
	return ctr, address
}

func TestShimOfContainerd(t *testing.T) {
	l := newLab(t, runc)
	c, _ := upstream(t, l.dir)
	run := []string{"run", "--rm", "--runc-binary", runc, "--rootfs", l.dir + "/rootfs"}
	c.want("hello\n", 0, append(run, l.name, "/bin/echo", "hello")...)
	c.want("", 6, append(run, l.name, "/bin/sh", "-c", "exit 6")...)
	if r := c.try("", append(run, l.name, "/bin/nonexistent")...); r.status == 0 || !strings.Contains(r.stderr, "no such file or directory") {
		t.Errorf("nonexistent: %+v", r)
	}
	c.ok("run", "-d", "--runc-binary", runc, "--rootfs", l.dir+"/rootfs", l.name, "/bin/sleep", "1000")
	t.Cleanup(func() { c.try("", "task", "rm", "--force", l.name); c.try("", "container", "rm", l.name) })
	c.want("in\n", 0, "task", "exec", "--exec-id", "e1", l.name, "/bin/echo", "in")
	c.want("", 3, "task", "exec", "--exec-id", "e2", l.name, "/bin/sh", "-c", "exit 3")
	if ps := c.ok("task", "ps", l.name); !strings.Contains(ps, "PID") {
		t.Errorf("ps: %s", ps)
	}
	c.ok("task", "pause", l.name)
	if ls := c.ok("task", "ls"); !strings.Contains(ls, "PAUSED") {
		t.Errorf("ls: %s", ls)
	}
	c.ok("task", "resume", l.name)
	if m := c.ok("task", "metrics", l.name); !strings.Contains(m, "memory") {
		t.Errorf("metrics: %s", m)
	}
	c.ok("task", "kill", "--signal", "SIGKILL", l.name)
	for end := time.Now().Add(time.Minute); !strings.Contains(c.ok("task", "ls"), "STOPPED"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the task does not stop")
		}
	}
	c.ok("task", "rm", l.name)
}

func TestDocker(t *testing.T) {
	dockerd := tool(t, "dockerd", "docker/usr/sbin/dockerd")
	docker := tool(t, "docker", "docker/usr/bin/docker")
	l := newLab(t, runc)
	_, address := upstream(t, l.dir)
	host := "unix://" + l.dir + "/docker.sock"
	c := &client{t: t, command: []string{docker, "--host", host}}
	bin := "PATH=" + filepath.Dir(docker) + ":" + os.Getenv("PATH")
	serve(t, func() bool { return c.try("", "version").status == 0 }, []string{bin}, dockerd, "--host", host, "--containerd", address,
		"--data-root", l.dir+"/docker", "--exec-root", l.dir+"/dockerrun", "--pidfile", l.dir+"/docker.pid", "--storage-driver", "vfs",
		"--bridge", "none", "--iptables=false", "--ip-forward=false", "--add-runtime", "ours="+runc, "--default-runtime", "ours")
	tar := exec.Command("tar", "-C", l.dir+"/rootfs", "-cf", l.dir+"/image.tar", ".")
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.ok("import", l.dir+"/image.tar", "busybox")
	c.want("hello\n", 0, "run", "--rm", "--network", "none", "busybox", "echo", "hello")
	c.want("", 5, "run", "--rm", "--network", "none", "busybox", "sh", "-c", "exit 5")
	c.want("", 127, "run", "--rm", "--network", "none", "busybox", "nonexistent")
	t.Cleanup(func() { c.try("", "rm", "--force", l.name) })
	c.ok("run", "-d", "--name", l.name, "--network", "none", "--memory", "64m", "--cpus", "0.5", "busybox", "sleep", "1000")
	c.want("ours\n", 0, "inspect", "--format", "{{.HostConfig.Runtime}}", l.name)
	c.want("in\n", 0, "exec", l.name, "/bin/echo", "in")
	c.want("", 9, "exec", l.name, "sh", "-c", "exit 9")
	if top := c.ok("top", l.name); !strings.Contains(top, "sleep 1000") {
		t.Errorf("top: %s", top)
	}
	c.ok("pause", l.name)
	c.want("paused\n", 0, "inspect", "--format", "{{.State.Status}}", l.name)
	c.ok("unpause", l.name)
	c.ok("update", "--memory", "128m", "--memory-swap", "256m", l.name)
	c.ok("restart", "--time", "0", l.name)
	c.ok("kill", l.name)
	c.want("137\n", 0, "wait", l.name)
	c.ok("rm", l.name)
}
