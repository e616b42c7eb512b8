// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// box makes bundles with a busybox in them and runs them.
type box struct {
	t      testing.TB
	root   string
	bundle string
	spec   *specs.Spec
	out    bytes.Buffer
}

// newBox is a bundle whose process runs a shell script.
func newBox(t testing.TB, script string) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs a static busybox")
	}
	dir := t.TempDir()
	b := &box{t: t, root: filepath.Join(dir, "state"), bundle: filepath.Join(dir, "bundle")}
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(b.bundle, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	b.file("bin/busybox", string(data), 0o755)
	for _, name := range strings.Fields("sh cat ls id echo true sleep readlink grep mount stat hostname touch mkdir ps tty umask stty") {
		if err := os.Symlink("busybox", filepath.Join(b.bundle, "rootfs/bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	b.spec = newSpec("sh", "-c", script)
	return b
}

func newSpec(args ...string) *specs.Spec {
	caps := []string{"CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_BIND_SERVICE"}
	mount := func(at, kind string, opts ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: kind, Source: kind, Options: opts}
	}
	s := &specs.Spec{
		Version: "1.2.0",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Root: &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "nosuid", "noexec", "nodev"),
			mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777"),
			mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		},
		Linux: &specs.Linux{
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/acpi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	for _, k := range []specs.LinuxNamespaceType{"pid", "network", "ipc", "uts", "mount"} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: k})
	}
	return s
}

// file writes a file of the root file system.
func (b *box) file(name, data string, mode os.FileMode) {
	b.t.Helper()
	name = filepath.Join(b.bundle, "rootfs", name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), mode); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) id() string {
	return strings.ToLower(strings.NewReplacer("/", "-", "#", "-", "=", "-", ",", "-").Replace(b.t.Name()))
}

func (b *box) config() Config {
	b.t.Helper()
	data, err := json.Marshal(b.spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.bundle, "config.json"), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return Config{Root: b.root, ID: b.id(), Bundle: b.bundle, Spec: b.spec}
}

// wait reaps a process and returns its exit status, 128+n for a signal.
func wait(t testing.TB, p *Process) int {
	t.Helper()
	done := make(chan struct{})
	timer := time.AfterFunc(time.Minute, func() {
		select {
		case <-done:
		default:
			unix.Kill(p.Pid, unix.SIGKILL)
			t.Errorf("process %d did not end in a minute", p.Pid)
		}
	})
	defer timer.Stop()
	defer close(done)
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.Pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			t.Fatalf("wait for %d: %v", p.Pid, err)
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ws.ExitStatus()
	}
}

// create creates the container, whose output goes to the returned pipe.
func (b *box) create(change func(*Config)) (c *Container, output *os.File, err error) {
	b.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	defer w.Close()
	config := b.config()
	config.Stdout, config.Stderr = w, w
	if change != nil {
		change(&config)
	}
	c, err = Create(context.Background(), config)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	b.t.Cleanup(func() {
		r.Close()
		if c, err := Load(b.root, b.id()); err == nil {
			if err := c.Delete(context.Background(), true); err != nil {
				b.t.Errorf("clean up: %v", err)
			}
			unix.Wait4(c.record.Pid, nil, 0, nil)
		}
	})
	return c, r, nil
}

// run runs the container to its end and returns what it printed.
func (b *box) run(change func(*Config)) (out string, status int, err error) {
	b.t.Helper()
	c, r, err := b.create(change)
	if err != nil {
		return "", -1, err
	}
	if err := c.Start(context.Background()); err != nil {
		return "", -1, err
	}
	data, _ := io.ReadAll(r)
	r.Close()
	status = wait(b.t, c.Init())
	if err := c.Delete(context.Background(), false); err != nil {
		b.t.Errorf("delete: %v", err)
	}
	return strings.TrimSpace(string(data)), status, nil
}

// want runs the container and compares what it prints.
func (b *box) want(want string) {
	b.t.Helper()
	out, status, err := b.run(nil)
	if err != nil || status != 0 || out != want {
		b.t.Errorf("printed %q, status %d, error %v; want %q", out, status, err, want)
	}
}

func TestRunPrintsAndEnds(t *testing.T) {
	b := newBox(t, "echo hello; exit 7")
	out, status, err := b.run(nil)
	if err != nil || out != "hello" || status != 7 {
		t.Fatalf("printed %q, status %d, %v", out, status, err)
	}
	if _, err := os.Stat(filepath.Join(b.root, b.id())); !os.IsNotExist(err) {
		t.Errorf("the state directory is still there: %v", err)
	}
}

func TestLifecycle(t *testing.T) {
	b := newBox(t, "sleep 1000")
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	status := func(want Status) {
		t.Helper()
		c, err := Load(b.root, b.id())
		if err != nil {
			t.Fatal(err)
		}
		if s, err := c.State(); err != nil || s.Status != want {
			t.Errorf("status %q, %v; want %s", s.Status, err, want)
		}
	}
	status(Created)
	if _, err := Create(ctx, b.config()); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second create: %v", err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	status(Running)
	if err := c.Start(ctx); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("second start: %v", err)
	}
	if err := c.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	status(Paused)
	if err := c.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, false); err == nil {
		t.Error("a running container could be deleted")
	}
	if pids, err := c.Pids(); err != nil || len(pids) != 1 || pids[0] != c.Init().Pid {
		t.Errorf("pids %v, %v; want the init's", pids, err)
	}
	if err := c.Kill(ctx, unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if s := wait(t, c.Init()); s != 128+9 {
		t.Errorf("status %d, want 137", s)
	}
	status(Stopped)
	if err := c.Kill(ctx, unix.SIGTERM, false); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("kill of a stopped container: %v", err)
	}
	if err := c.Delete(ctx, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(b.root, b.id()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("load after delete: %v", err)
	}
}

// execute runs a process beside the init.
func execute(t *testing.T, c *Container, change func(*ProcessConfig), args ...string) (string, int, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	config := ProcessConfig{Spec: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}}, Stdout: w, Stderr: w}
	if change != nil {
		change(&config)
	}
	p, err := c.Exec(context.Background(), config)
	w.Close()
	if err != nil {
		return "", -1, err
	}
	data, _ := io.ReadAll(r)
	return strings.TrimSpace(string(data)), wait(t, p), nil
}

func TestExec(t *testing.T) {
	b := newBox(t, "hostname inside; touch /tmp/up; sleep 1000")
	b.spec.Process.Capabilities.Bounding = append(b.spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
	b.spec.Hostname = "inside"
	b.spec.Process.Args = []string{"sleep", "1000"}
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	out, status, err := execute(t, c, nil, "sh", "-c", "hostname; until readlink /proc/1/exe; do :; done; id -u; exit 3")
	if err != nil || status != 3 || out != "inside\n/bin/busybox\n0" {
		t.Errorf("printed %q, status %d, %v", out, status, err)
	}
	_, _, err = execute(t, c, nil, "nosuch")
	if want := `exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH`; err == nil || err.Error() != want {
		t.Errorf("error is %v\nwant %s", err, want)
	}
}

func TestCreateErrorIsLikeRuncs(t *testing.T) {
	b := newBox(t, "")
	b.spec.Process.Args = []string{"nosuch"}
	_, _, err := b.run(nil)
	if want := `unable to start container process: error during container init: exec: "nosuch": executable file not found in $PATH`; err == nil || err.Error() != want {
		t.Errorf("error is %v\nwant %s", err, want)
	}
}
