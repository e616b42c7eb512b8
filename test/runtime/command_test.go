// SPDX-License-Identifier: Apache-2.0

package runtime_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestAFailedRunLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*specs.Spec)
		want string
	}{
		"command": {args("nonexistent"), "executable file not found in $PATH"},
		"rootfs":  {func(s *specs.Spec) { s.Root.Path = "nope" }, "does not exist"},
		"hook": {func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		}, "hook #0: exit status 1"},
		"limit": {func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "nine"}
		}, "cpuset.cpus"},
		"seccomp": {func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_DANCE"}
		}, "SCMP_ACT_DANCE"},
		"mount": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nosuchfs", Source: "none"})
		}, "nosuchfs"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, runc)
			l.bundle(c.edit)
			r := l.run("run", l.name)
			if r.status != 1 || !strings.Contains(r.stderr, c.want) {
				t.Errorf("status %d: %s", r.status, r.stderr)
			}
			if left, _ := os.ReadDir(l.root); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
			for _, left := range leftovers() {
				if strings.Contains(left, l.name) {
					t.Errorf("%s is left", left)
				}
			}
		})
	}
}

func TestSignalsGoToTheContainer(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(sh("trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done"))
	cmd := exec.Command(runc, "--root", l.root, "run", l.name)
	cmd.Dir = l.dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	if _, err := out.Read(buf); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	rest := new(bytes.Buffer)
	rest.ReadFrom(out)
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 5 || rest.String() != "got\n" {
		t.Errorf("status %d, %q", cmd.ProcessState.ExitCode(), rest)
	}
}

func TestPreservedFilesAreThePayloads(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(sh("cat <&3; ls -1 /proc/self/fd | tr '\\n' ' '"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fmt.Fprintln(w, "three")
	w.Close()
	for n, want := range map[string]string{"1": "three\n0 1 2 3 4 ", "2": ""} { // 4 is the directory that ls reads
		cmd := exec.Command(runc, "--root", l.root, "run", "--preserve-fds", n, l.name)
		cmd.Dir, cmd.ExtraFiles = l.dir, []*os.File{r}
		out, _ := cmd.Output()
		if n == "1" && string(out) != want {
			t.Errorf("got %q, want %q", out, want)
		}
		if n == "2" && cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("a descriptor that is not there was accepted: %s", out)
		}
	}
}

// sleeping waits until n processes of the container have executed sleep.
func (l *lab) sleeping(n int) {
	l.t.Helper()
	var table string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if table = l.ok("ps", l.name); strings.Count(table, "sleep 300") == n {
			return
		}
	}
	l.t.Fatalf("not %d processes sleep: %s", n, table)
}

func TestPidFiles(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(args("sleep", "300"))
	l.ok("run", "-d", "--pid-file", "pid", l.name)
	l.ok("exec", "-d", "--pid-file", "exec.pid", l.name, "sleep", "300")
	l.sleeping(2)
	var pids []int
	if err := json.Unmarshal([]byte(l.ok("ps", "--format", "json", l.name)), &pids); err != nil || len(pids) != 2 {
		t.Fatalf("%v, %v", pids, err)
	}
	for i, file := range []string{"pid", "exec.pid"} {
		text, err := os.ReadFile(filepath.Join(l.dir, file))
		if err != nil || string(text) != strconv.Itoa(pids[i]) {
			t.Errorf("%s: %q, %v, want %d", file, text, err, pids[i])
		}
	}
}

// receive takes one descriptor from a connection to a socket.
func receive(t *testing.T, listener *net.UnixListener) *os.File {
	t.Helper()
	listener.SetDeadline(time.Now().Add(60 * time.Second))
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 4096), oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "received")
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestConsoleSocket(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(func(s *specs.Spec) {
		s.Process.Terminal = true
		s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
		s.Process.Args = []string{"sh", "-c", "tty; stty size"}
	})
	socket := listen(t, filepath.Join(l.dir, "s"))
	l.ok("create", "--console-socket", "s", l.name)
	master := receive(t, socket)
	defer master.Close()
	l.ok("start", l.name)
	text := new(bytes.Buffer)
	text.ReadFrom(master) // ends with EIO, when the last process has gone
	if text.String() != "/dev/pts/0\r\n33 77\r\n" {
		t.Errorf("got %q", text)
	}
}

func TestATerminalPrintsPlainLines(t *testing.T) {
	for _, command := range []string{runc, peer} {
		if command == "" {
			continue
		}
		l := newLab(t, command)
		l.bundle(func(s *specs.Spec) {
			s.Process.Terminal = true
			s.Process.Args = []string{"sh", "-c", "echo a; echo b"}
		})
		pty, name, err := console.NewPty()
		if err != nil {
			t.Fatal(err)
		}
		defer pty.Close()
		tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer tty.Close()
		cmd := exec.Command(command, "--root", l.root, "run", l.name)
		cmd.Dir, cmd.Stdin, cmd.Stderr = l.dir, tty, tty
		out, err := cmd.Output()
		if err != nil || string(out) != "a\nb\n" {
			t.Errorf("%s: %q, %v", command, out, err)
		}
		if mode, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil || mode.Lflag&unix.ICANON == 0 {
			t.Errorf("%s: the terminal is left raw: %v", command, err)
		}
	}
}

func TestPidfdSocket(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(args("sleep", "300"))
	socket := listen(t, filepath.Join(l.dir, "s"))
	l.ok("create", "--pidfd-socket", "s", l.name)
	pidfd := receive(t, socket)
	defer pidfd.Close()
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	l.await(l.name, "stopped")
}

func TestLimitsAndStatistics(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(func(s *specs.Spec) {
		limit, pids := int64(64<<20), int64(40)
		s.Process.Args = []string{"sleep", "300"}
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	})
	l.ok("run", "-d", l.name)
	l.sleeping(1) // the init is a Go program with threads until then
	want := func(memory, pids uint64) {
		t.Helper()
		var e struct {
			Type, ID string
			Data     struct {
				Memory struct{ Usage struct{ Limit uint64 } }
				Pids   struct{ Current, Limit uint64 }
			}
		}
		if err := json.Unmarshal([]byte(l.ok("events", "--stats", l.name)), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type != "stats" || e.ID != l.name || e.Data.Memory.Usage.Limit != memory || e.Data.Pids.Limit != pids || e.Data.Pids.Current != 1 {
			t.Errorf("got %+v", e)
		}
	}
	want(64<<20, 40)
	l.ok("update", "--memory", "128M", "--pids-limit", "50", l.name)
	want(128<<20, 50)
	if r := l.feed(`{"memory":{"limit":67108864},"pids":{"limit":-1}}`, "update", "-r", "-", l.name); r.status != 0 {
		t.Fatal(r.stderr)
	}
	want(64<<20, 0)
}

func TestEventsEndWithTheContainer(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(args("sleep", "300"))
	l.ok("run", "-d", l.name)
	cmd := exec.Command(runc, "--root", l.root, "events", "--interval", "20ms", l.name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(out)
	var e struct{ Type string }
	if err := d.Decode(&e); err != nil || e.Type != "stats" {
		t.Errorf("%+v, %v", e, err)
	}
	l.ok("delete", "--force", l.name)
	for d.Decode(&e) == nil {
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestContainersOfOneCommandAreSeenByTheOther(t *testing.T) {
	if peer == "" {
		t.Skip("needs runc 1.5.1: scripts/setup.sh builds it")
	}
	for _, commands := range [][2]string{{runc, peer}, {peer, runc}} {
		l := newLab(t, commands[0])
		l.bundle(args("sleep", "300"))
		l.ok("run", "-d", l.name)
		l.command = commands[1]
		if got := strings.TrimSpace(l.ok("list", "-q")); got != l.name {
			t.Errorf("list: %q", got)
		}
		l.await(l.name, "running")
		l.ok("pause", l.name)
		l.await(l.name, "paused")
		l.ok("resume", l.name)
		if got := l.ok("exec", l.name, "echo", "in"); got != "in\n" {
			t.Errorf("exec: %q", got)
		}
		l.ok("kill", l.name, "KILL")
		l.await(l.name, "stopped")
		l.ok("delete", l.name)
	}
}

// managerSocket stands in for a service manager: it lists what it is told.
func managerSocket(t *testing.T, path string) <-chan string {
	t.Helper()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	got := make(chan string, 10)
	go func() { // ends when the socket is closed
		defer close(got)
		for buf := make([]byte, 4096); ; {
			oob := make([]byte, unix.CmsgSpace(4))
			n, on, _, _, err := socket.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			if m, err := unix.ParseSocketControlMessage(oob[:on]); err == nil && len(m) == 1 {
				if fds, err := unix.ParseUnixRights(&m[0]); err == nil {
					unix.Close(fds[0]) // the answer to a barrier
				}
			}
			got <- string(buf[:n])
		}
	}()
	return got
}

// becomeReady is what a container's service says when it has found the socket.
func (l *lab) becomeReady() {
	for end := time.Now().Add(time.Minute); !exists(l.dir+"/rootfs/tmp/seen") && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if conn, err := net.Dial("unixgram", filepath.Join(l.root, l.name, "notify/notify.sock")); err == nil {
		conn.Write([]byte("STATUS=up\nREADY=1\n"))
		conn.Close()
	}
}

func TestReadinessReachesTheServiceManager(t *testing.T) {
	for name, start := range map[string][][]string{"run": {{"run", "-d"}}, "start": {{"create"}, {"start"}}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, runc)
			l.bundle(func(s *specs.Spec) {
				s.Process.Args = []string{"sh", "-c", "while ! test -S $NOTIFY_SOCKET; do sleep 0.05; done; touch /tmp/seen; exec sleep 300"}
				s.Root.Readonly = false
			})
			path := filepath.Join(l.dir, "n.sock")
			got := managerSocket(t, path)
			t.Setenv("NOTIFY_SOCKET", path)
			go l.becomeReady()
			for _, args := range start {
				l.ok(append(args, l.name)...)
			}
			var pids []int
			if err := json.Unmarshal([]byte(l.ok("ps", "--format", "json", l.name)), &pids); err != nil || len(pids) == 0 {
				t.Fatalf("%v, %v", pids, err)
			}
			for _, want := range []string{"READY=1\n", fmt.Sprintf("MAINPID=%d\n", pids[0]), "BARRIER=1"} {
				if m := <-got; m != want {
					t.Errorf("got %q, want %q", m, want)
				}
			}
		})
	}
}

func TestNetworkDevicesMoveIntoTheContainer(t *testing.T) {
	a, b := fmt.Sprintf("swc%d", os.Getpid()%100000), fmt.Sprintf("swd%d", os.Getpid()%100000)
	if out, err := exec.Command("ip", "link", "add", a, "type", "veth", "peer", "name", b).CombinedOutput(); err != nil {
		t.Skipf("no veth: %v: %s", err, out)
	}
	defer exec.Command("ip", "link", "del", b).Run()
	if out, err := exec.Command("ip", "addr", "add", "192.0.2.9/24", "dev", a).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l := newLab(t, runc)
	l.bundle(func(s *specs.Spec) {
		s.Process.Args = []string{"ip", "-o", "-4", "addr", "show", "inner0"}
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{a: {Name: "inner0"}}
	})
	if out := l.ok("run", l.name); !strings.Contains(out, "192.0.2.9/24") {
		t.Errorf("got %q", out)
	}
	if r := l.run("run", l.name); r.status != 1 || !strings.Contains(r.stderr, a) {
		t.Errorf("a device that is gone: %+v", r)
	}
}

func TestAGroupOfOthersIsNotTaken(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "300"}
		s.Linux.CgroupsPath = "/" + l.name
	})
	l.ok("run", "-d", l.name)
	if r := l.run("run", "-d", l.name+"-too"); r.status != 1 || !strings.Contains(r.stderr, "container's cgroup is not empty: 1 process(es) found") {
		t.Errorf("%+v", r)
	}
	l.await(l.name, "running")
	if got := l.ok("list", "-q"); got != l.name+"\n" {
		t.Errorf("there are %q", got)
	}
	l.ok("delete", "--force", l.name)
}
