// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

func TestTerminal(t *testing.T) {
	b := newBox(t, "tty; stty size; echo console > /dev/console; exec 3</dev/tty && echo controls")
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Width: 91, Height: 37}
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	console := c.Init().Console
	if console == nil {
		t.Fatal("no console")
	}
	defer console.Close()
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(console) // EIO at the end
	out := strings.ReplaceAll(strings.TrimSpace(string(data)), "\r", "")
	if status := wait(t, c.Init()); status != 0 || out != "/dev/pts/0\n37 91\nconsole\ncontrols" {
		t.Errorf("printed %q, status %d", out, status)
	}
}

func TestPlainOutput(t *testing.T) {
	b := newBox(t, "echo one; echo two")
	b.spec.Process.Terminal = true
	c, _, err := b.create(func(c *Config) { c.PlainOutput = true })
	if err != nil {
		t.Fatal(err)
	}
	read := func(p *Process) string {
		defer p.Console.Close()
		data, _ := io.ReadAll(p.Console) // EIO at the end
		return string(data)
	}
	p, err := c.Exec(context.Background(), ProcessConfig{
		Spec: &specs.Process{Args: []string{"echo", "exec"}, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: true}, PlainOutput: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if out := read(p); wait(t, p) != 0 || out != "exec\n" {
		t.Errorf("exec printed %q", out)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out := read(c.Init()); wait(t, c.Init()) != 0 || out != "one\ntwo\n" {
		t.Errorf("printed %q", out)
	}
}

func TestConsoleSocketGetsTheMaster(t *testing.T) {
	b := newBox(t, "tty")
	b.spec.Process.Terminal = true
	ours, theirs, err := linux.SocketPair("console")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	c, _, err := b.create(func(c *Config) { c.ConsoleSocket = theirs })
	if err != nil {
		t.Fatal(err)
	}
	_, files, err := linux.Receive(ours, make([]byte, 100))
	if err != nil || len(files) != 1 {
		t.Fatalf("received %d files, %v", len(files), err)
	}
	defer files[0].Close()
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(files[0])
	if wait(t, c.Init()); strings.TrimSpace(string(data)) != "/dev/pts/0" {
		t.Errorf("printed %q", data)
	}
}

func TestExecWithTerminal(t *testing.T) {
	b := newBox(t, "sleep 1000")
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	p, err := c.Exec(context.Background(), ProcessConfig{
		Spec: &specs.Process{Args: []string{"tty"}, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Console.Close()
	data, _ := io.ReadAll(p.Console)
	if status := wait(t, p); status != 0 || strings.TrimSpace(string(data)) != "/dev/pts/0" {
		t.Errorf("printed %q, status %d", data, status)
	}
}

func TestExtraFilesComeFromThreeUp(t *testing.T) {
	b := newBox(t, "cat <&3; cat <&4; ls /proc/self/fd | busybox tr '\\n' ' '")
	var extra []*os.File
	for i := range 2 {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintf(f, "file %d\n", i)
		f.Seek(0, io.SeekStart)
		extra = append(extra, f)
	}
	out, _, err := b.run(func(c *Config) { c.ExtraFiles = extra })
	if want := "file 0\nfile 1\n0 1 2 3 4 5"; err != nil || out != want {
		t.Errorf("printed %q, %v; want %q", out, err, want)
	}
}

func TestExecInUserNamespace(t *testing.T) {
	b := newBox(t, "sleep 1000")
	userns(b)
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "cgroup"})
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	out, status, err := execute(t, c, nil, "sh", "-c", "id -u; for n in user cgroup pid; do readlink /proc/self/ns/$n; done")
	var want []string
	for _, k := range []string{"user", "cgroup", "pid"} {
		l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Init().Pid, k))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, l)
	}
	if err != nil || status != 0 || out != "0\n"+strings.Join(want, "\n") {
		t.Errorf("printed %q, status %d, %v; want %q", out, status, err, want)
	}
}

// A second container in the namespaces of the first, as in a pod.
func TestJoinNamespacesByPath(t *testing.T) {
	for _, user := range []bool{false, true} {
		t.Run(fmt.Sprint("user=", user), func(t *testing.T) {
			first := newBox(t, "sleep 1000")
			shared := []specs.LinuxNamespaceType{"pid", "network", "ipc", "uts"}
			if user {
				userns(first)
				shared = append(shared, "user")
			}
			first.spec.Hostname = "pod"
			c, _, err := first.create(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			t.Run("second", func(t *testing.T) {
				second := newBox(t, "hostname; readlink /proc/1/root >/dev/null; echo $$ | grep -v '^1$' >/dev/null && echo shared; id -u")
				if user {
					userns(second)
				}
				second.spec.Linux.UIDMappings, second.spec.Linux.GIDMappings = nil, nil
				second.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}}
				files := map[specs.LinuxNamespaceType]string{"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "user": "user"}
				for _, k := range shared {
					path := fmt.Sprintf("/proc/%d/ns/%s", c.Init().Pid, files[k])
					second.spec.Linux.Namespaces = append(second.spec.Linux.Namespaces, specs.LinuxNamespace{Type: k, Path: path})
				}
				second.want("pod\nshared\n0")
			})
		})
	}
}

func TestHooksRunInOrderWithTheState(t *testing.T) {
	b := newBox(t, "cat /log")
	log := filepath.Join(b.bundle, "rootfs/log")
	hook := func(name, file string) []specs.Hook {
		script := fmt.Sprintf(`read s; echo %s $(echo "$s" | sed 's/.*"status":"\([a-z]*\)".*/\1/') >> %s`, name, file)
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}}
	}
	after := filepath.Join(filepath.Dir(b.bundle), "after")
	b.spec.Hooks = &specs.Hooks{
		Prestart: hook("prestart", log), CreateRuntime: hook("createRuntime", log), CreateContainer: hook("createContainer", log),
		StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo startContainer >> /log"}}},
		Poststart:      hook("poststart", after), Poststop: hook("poststop", after),
	}
	b.want("prestart creating\ncreateRuntime creating\ncreateContainer creating\nstartContainer")
	data, _ := os.ReadFile(after)
	if want := "poststart running\npoststop stopped\n"; string(data) != want {
		t.Errorf("afterwards: %q, want %q", data, want)
	}
}

func TestHookThatFailsOrHangsFailsCreate(t *testing.T) {
	second := 1
	for name, h := range map[string]specs.Hook{
		"exit status 3, stdout: out, stderr: err": {Path: "/bin/sh", Args: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}},
		"hook ran past specified timeout of 1.0s": {Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &second},
	} {
		b := newBox(t, "true")
		b.spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{h}}
		_, _, err := b.run(nil)
		if want := "error running createContainer hook #0: " + name; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v\nwant %s", err, want)
		}
		b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{h}}
		if _, _, err := b.run(nil); err == nil || !strings.Contains(err.Error(), "createRuntime hook #0: "+name) {
			t.Errorf("error is %v\nwant %s", err, name)
		}
		if _, err := os.Stat(filepath.Join(b.root, b.id())); !os.IsNotExist(err) {
			t.Errorf("state directory: %v", err)
		}
	}
}

func TestSeccompFilter(t *testing.T) {
	for _, nnp := range []bool{true, false} {
		b := newBox(t, "mkdir /x || echo refused")
		b.spec.Process.NoNewPrivileges = nnp
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
		}
		out, _, err := b.run(nil)
		if err != nil || !strings.HasSuffix(out, "Operation not permitted\nrefused") {
			t.Errorf("printed %q, %v", out, err)
		}
	}
}

func TestSeccompListenerGetsTheStateAndTheDescriptor(t *testing.T) {
	b := newBox(t, "true")
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "meta",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "sendmsg"}, Action: specs.ActNotify}},
	}
	got := make(chan specs.ContainerProcessState, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		f, _ := conn.(*net.UnixConn).File()
		defer f.Close()
		unix.SetNonblock(int(f.Fd()), false)
		buf := make([]byte, 64<<10)
		n, files, _ := linux.Receive(f, buf)
		var s specs.ContainerProcessState
		json.Unmarshal(buf[:n], &s)
		if len(files) != 1 {
			s.Metadata = "no descriptor"
		}
		for _, f := range files {
			f.Close()
		}
		got <- s
	}()
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := <-got
	if s.Metadata != "meta" || s.Pid != c.Init().Pid || s.State.ID != b.id() || len(s.Fds) != 1 || s.Fds[0] != specs.SeccompFdName {
		t.Errorf("the agent got %+v", s)
	}
}

func TestNoPivot(t *testing.T) {
	b := newBox(t, "echo inside; ls / | grep -c rootfs")
	out, _, err := b.run(func(c *Config) { c.NoPivot = true })
	if err != nil || out != "inside\n0" {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestRootfsOfADetachedMount(t *testing.T) {
	b := newBox(t, "cat /mark")
	b.file("mark", "mounted", 0o644)
	tree, err := cloneTree(filepath.Join(b.bundle, "rootfs"), false)
	if err != nil {
		t.Skip("needs Linux 5.12: ", err)
	}
	empty := filepath.Join(b.bundle, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	b.spec.Root.Path = "empty"
	out, _, err := b.run(func(c *Config) { c.Rootfs = tree })
	if err != nil || out != "mounted" {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestPidFileAndPidfdSocket(t *testing.T) {
	b := newBox(t, "true")
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, _, err := b.create(func(c *Config) { c.PidFile, c.PidfdSocket = dir+"/pid", dir+"/socket" })
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(dir + "/pid"); err != nil || string(data) != fmt.Sprint(c.Init().Pid) {
		t.Errorf("pid file %q, %v; want %d", data, err, c.Init().Pid)
	}
}

// Debian's runc handles a container of ours.
func TestRuncHandlesOurs(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc")
	}
	b := newBox(t, "sleep 1000")
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(runc, append([]string{"--root", b.root}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("runc %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	status := func(want string) {
		t.Helper()
		var s State
		if err := json.Unmarshal([]byte(run("state", b.id())), &s); err != nil || string(s.Status) != want {
			t.Errorf("runc says %+v, %v; want %s", s, err, want)
		}
	}
	status("created")
	run("start", b.id())
	status("running")
	if out := run("list"); !strings.Contains(out, b.id()) {
		t.Errorf("runc list: %s", out)
	}
	run("pause", b.id())
	status("paused")
	run("resume", b.id())
	run("kill", b.id(), "KILL")
	wait(t, c.Init())
	status("stopped")
	run("delete", b.id())
	if _, err := os.Stat(filepath.Join(b.root, b.id())); !os.IsNotExist(err) {
		t.Errorf("state directory: %v", err)
	}
}

// And the other way round.
func TestOursHandlesRuncs(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc")
	}
	b := newBox(t, "sleep 1000")
	b.config()
	cmd := exec.Command(runc, "--root", b.root, "create", "--bundle", b.bundle, b.id())
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	c, err := Load(b.root, b.id())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Delete(ctx, true)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if out, status, err := execute(t, c, nil, "echo", "hi"); err != nil || status != 0 || out != "hi" {
		t.Errorf("exec printed %q, %d, %v", out, status, err)
	}
	if err := c.Delete(ctx, true); err != nil {
		t.Error(err)
	}
}

func TestCancelledCreateLeavesNothing(t *testing.T) {
	b := newBox(t, "true")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}}}
	config := b.config()
	done := make(chan error)
	go func() {
		_, err := Create(ctx, config)
		done <- err
	}()
	if !eventually(func() bool { return usesRoot(b.bundle) }) {
		t.Error("the init did not come to its hook")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if !eventually(func() bool { return !usesRoot(b.bundle) }) {
		t.Error("a process is left")
	}
	if _, err := os.Stat(filepath.Join(b.root, b.id())); !os.IsNotExist(err) {
		t.Errorf("state directory: %v", err)
	}
}

func TestCreateRefusesBadSpecs(t *testing.T) {
	for want, change := range map[string]func(s *specs.Spec){
		"args must not be empty":             func(s *specs.Spec) { s.Process.Args = nil },
		"process property must not be empty": func(s *specs.Spec) { s.Process = nil },
		"Cwd must be an absolute path":       func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		"rootfs (/no/such) does not exist":   func(s *specs.Spec) { s.Root.Path = "/no/such" },
		`duplicated ns "pid"`: func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"})
		},
		`namespace "nosuch" does not exist`: func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "nosuch"})
		},
		"hostname without a private UTS namespace":   func(s *specs.Spec) { s.Hostname = "x"; s.Linux.Namespaces = s.Linux.Namespaces[:1]; s.Mounts = nil },
		"user namespace isn't enabled":               func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"not in a separate kernel namespace":         func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/evil"} },
		`"net/../kernel/core_pattern" is not a para`: func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../kernel/core_pattern": "|/evil"} },
		"no private network namespace": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.x": "1"}
			s.Linux.Namespaces[1].Path = "/proc/self/ns/net"
		},
		"missing '='":          func(s *specs.Spec) { s.Process.Env = []string{"NAME"} },
		"name cannot be empty": func(s *specs.Spec) { s.Process.Env = []string{"=x"} },
		"RLIMIT_CORE: soft limit 2 is above the hard limit 1": func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}}
		},
		"rootfsPropagation=far is not supported": func(s *specs.Spec) { s.Linux.RootfsPropagation = "far" },
		`invalid rlimit type "RLIMIT_X"`:         func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		`ociVersion "2.0.0" is not supported`:    func(s *specs.Spec) { s.Version = "2.0.0" },
	} {
		b := newBox(t, "true")
		change(b.spec)
		_, err := Create(context.Background(), b.config())
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
}

// Who joins a time namespace must be alone in its memory.
func TestTimeNamespacesAreJoined(t *testing.T) {
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("needs Linux 5.6")
	}
	b := newBox(t, "sleep 1000")
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 900000000}}
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	const uptime = "busybox cut -d. -f1 /proc/uptime | busybox wc -c"
	if out, _, err := execute(t, c, nil, "sh", "-c", uptime); err != nil || strings.TrimSpace(out) != "10" {
		t.Errorf("an exec prints %q, %v", out, err)
	}
	other := newBox(t, uptime)
	other.spec.Linux.CgroupsPath += "-other"
	other.spec.Linux.Namespaces = append(other.spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: "time", Path: fmt.Sprintf("/proc/%d/ns/time", c.record.Pid)})
	if out, status, err := other.run(nil); err != nil || status != 0 || strings.TrimSpace(out) != "10" {
		t.Errorf("another container prints %q, %d, %v", out, status, err)
	}
}

func TestWithoutAMountNamespace(t *testing.T) {
	b := newBox(t, "sleep 1000")
	b.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "uts"}}
	b.spec.Mounts, b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = nil, nil, nil
	b.file("mark", "inside", 0o644)
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out, _, err := execute(t, c, nil, "cat", "/mark"); err != nil || out != "inside" {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestHooksInTheContainerRunAsItsProcess(t *testing.T) {
	b := newBox(t, "grep -E 'Seccomp:|CapEff|CapBnd' /proc/self/status; cat /log")
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c", "/bin/grep -E 'Seccomp:|CapEff|CapBnd' /proc/self/status > /log; echo /proc/self/fd/* >> /log",
	}}}}
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno},
	}}
	for _, nnp := range []bool{true, false} {
		b.spec.Process.NoNewPrivileges = nnp
		out, status, err := b.run(func(c *Config) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			c.ExtraFiles = []*os.File{w}
			t.Cleanup(func() { w.Close() })
		})
		lines := strings.Split(out, "\n")
		if err != nil || status != 0 || len(lines) != 7 {
			t.Fatalf("%q, %d, %v", out, status, err)
		}
		if !slices.Equal(lines[:3], lines[3:6]) || !strings.Contains(out, "Seccomp:\t2") {
			t.Errorf("process and hook have %q", lines)
		}
		if files := lines[6]; files != "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3" { // 3 reads the directory
			t.Errorf("the hook has %s", files)
		}
	}
}

func TestFlagsOfTheFilterAreLogged(t *testing.T) {
	b := newBox(t, "true")
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}}
	var log bytes.Buffer
	_, status, err := b.run(func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	if err != nil || status != 0 || !strings.Contains(log.String(), `"seccomp filter flags: 2"`) {
		t.Errorf("%d, %v, %q", status, err, log.String())
	}
}

func TestADeadlineNeedsAllProcessors(t *testing.T) {
	if goruntime.NumCPU() < 2 {
		t.Skip("needs two processors")
	}
	b := newBox(t, "true")
	ms := uint64(1000000)
	b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: ms, Deadline: 10 * ms, Period: 10 * ms}
	b.spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}
	if _, _, err := b.create(nil); err == nil || !strings.Contains(err.Error(), "can't be used together with AllowedCPUs 0") {
		t.Errorf("error is %v", err)
	}
}

func TestKillWithoutAPidNamespaceEndsAll(t *testing.T) {
	b := newBox(t, "sleep 1000 & sleep 1000 & wait")
	b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[1:]
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	count := func(want int) bool {
		return eventually(func() bool { pids, err := c.Pids(); return err == nil && len(pids) == want })
	}
	if !count(3) {
		t.Fatal("it did not come to have three processes")
	}
	if err := c.Kill(context.Background(), unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if status := wait(t, c.Init()); status != 137 || !count(0) {
		t.Errorf("status %d; some process is left", status)
	}
}

func TestProcessesHaveTheContainersKeyring(t *testing.T) {
	b := newBox(t, "sleep 1000")
	b.spec.Linux.MaskedPaths = nil
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	out, _, err := execute(t, c, nil, "grep", "-c", "_ses."+b.id(), "/proc/keys")
	if err != nil || out != "1" {
		t.Errorf("%q keyrings of the container, %v", out, err)
	}
}

func TestExecCPUAffinity(t *testing.T) {
	b := newBox(t, "sleep 1000")
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := execute(t, c, func(p *ProcessConfig) {
		p.Spec.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	}, "grep", "Cpus_allowed_list", "/proc/self/status")
	if err != nil || out != "Cpus_allowed_list:\t0" {
		t.Errorf("printed %q, %v", out, err)
	}
	_, _, err = execute(t, c, func(p *ProcessConfig) {
		p.Spec.ExecCPUAffinity = &specs.CPUAffinity{Initial: "3-1"}
	}, "true")
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a bad list gives %v", err)
	}
}

func TestTimersAreOnTime(t *testing.T) {
	want, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil {
		t.Skip(err)
	}
	b := newBox(t, "cat /proc/self/timerslack_ns")
	out, _, err := b.run(nil)
	if err != nil || out != strings.TrimSpace(string(want)) {
		t.Errorf("timers may be %s ns late, %v, want %s", out, err, want)
	}
}
