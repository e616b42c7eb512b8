// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	eventspb "github.com/containerd/containerd/api/events"
	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/mount"
)

// patience is the deadline of everything that a test waits for.
const patience = 60 * time.Second

var binaryPath struct {
	sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if binaryPath.path != "" {
		os.RemoveAll(filepath.Dir(binaryPath.path))
	}
	os.Exit(code)
}

// binary builds the shim once, unless SHIM names one.
func binary(t testing.TB) string {
	t.Helper()
	if built := os.Getenv("SHIM"); built != "" {
		return built
	}
	binaryPath.Do(func() {
		dir, err := os.MkdirTemp("", "shim")
		if err != nil {
			binaryPath.err = err
			return
		}
		binaryPath.path = filepath.Join(dir, "containerd-shim-runc-v2")
		binaryPath.err = buildShim(dir, binaryPath.path)
	})
	if binaryPath.err != nil {
		t.Fatal(binaryPath.err)
	}
	return binaryPath.path
}

// buildShim builds the shim with the init of containers in it, which need not
// be where the Makefile puts it.
func buildShim(dir, out string) error {
	program, overlay := filepath.Join(dir, "init"), filepath.Join(dir, "overlay.json")
	source, err := filepath.Abs("../runtime/init.bin")
	if err != nil {
		return err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {source: program}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"-o", program, "slipway/runtime/init"},
		{"-tags", "embedinit", "-overlay", overlay, "-o", out, "slipway/cmd/containerd-shim-runc-v2"},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w"}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, msg)
		}
	}
	return nil
}

// driverEnv names an external runtime for all tests of a run of this program.
const driverEnv = "SLIPWAY_TEST_RUNTIME"

// TestWithAnExternalRuntime runs the other tests again.
func TestWithAnExternalRuntime(t *testing.T) {
	if os.Getenv(driverEnv) != "" {
		t.Skip("this is that run")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc")
	}
	cmd := exec.Command(os.Args[0], "-test.v=true")
	cmd.Env = append(os.Environ(), driverEnv+"="+runc)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A world is a daemon without a daemon: a place for bundles, a socket that
// takes events, and the shims that were started.
type world struct {
	t      testing.TB
	dir    string
	ns     string
	image  string // directory of a root file system with busybox
	events *events
	env    []string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to run containers")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox for a root file system")
	}
	dir, err := os.MkdirTemp("", "w") // short: sockets live below
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, ns: filepath.Base(dir), image: filepath.Join(dir, "image")}
	t.Cleanup(w.close)
	installBusybox(t, busybox, w.image)
	w.events = listenEvents(t, filepath.Join(dir, "ttrpc"))
	return w
}

func installBusybox(t testing.TB, busybox, image string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(image, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep", "true", "echo", "stty", "ls", "kill"} {
		if err := os.Symlink("busybox", filepath.Join(image, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
}

// close checks that nothing is left of any container, and fails the test
// otherwise.
func (w *world) close() {
	w.events.close()
	until(w.t, "the processes of the test end", func() bool { return len(w.processes()) == 0 })
	if m := w.mounts(); m != "" {
		w.t.Errorf("mounts are left:\n%s", m)
		mount.UnmountRecursive(w.dir)
	}
	if left, _ := os.ReadDir(filepath.Join(w.dir, "s")); len(left) > 0 {
		w.t.Errorf("sockets are left: %v", left)
	}
	if left, _ := os.ReadDir(filepath.Join(w.dir, "runc", w.ns)); len(left) > 0 {
		w.t.Errorf("states of the runtime are left: %v", left)
	}
	os.RemoveAll(w.dir)
}

func (w *world) mounts() string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var left []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, w.dir+"/") {
			left = append(left, line)
		}
	}
	return strings.Join(left, "")
}

// processes lists those with the test's directory or namespace in their
// command lines.
func (w *world) processes() (pids []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range dirs {
		data, _ := os.ReadFile(f)
		if bytes.Contains(data, []byte(w.ns)) && filepath.Base(filepath.Dir(f)) != fmt.Sprint(os.Getpid()) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// until polls for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// spec is the part of an OCI spec that tests change.
type spec map[string]any

func newSpec(args ...string) spec {
	caps := []string{"CAP_KILL"}
	return spec{
		"ociVersion": "1.0.2",
		"process": spec{
			"args": args, "cwd": "/", "user": spec{"uid": 0, "gid": 0},
			"env":          []string{"PATH=/bin", "TERM=xterm"},
			"capabilities": spec{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"root":     spec{"path": "rootfs"},
		"hostname": "box",
		"mounts": []spec{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=65536k"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		"linux": spec{"namespaces": []spec{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}},
	}
}

// A box is a container of a world with a client of its shim.
type box struct {
	*world
	t       testing.TB
	id      string
	bundle  string
	address string
	task    task.TTRPCTaskService
	conn    *ttrpc.Client
	options *anypb.Any
}

// box makes a bundle and starts its shim.
func (w *world) box(t testing.TB, id string, s spec) *box {
	t.Helper()
	b := &box{world: w, t: t, id: id, bundle: filepath.Join(w.dir, "b", id)}
	linux := s["linux"].(spec)
	if linux["cgroupsPath"] == nil {
		linux["cgroupsPath"] = "/" + w.ns + "-" + id
	}
	if err := os.MkdirAll(b.bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(b.bundle, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.options = w.options(t)
	b.address = b.start()
	b.dial()
	t.Cleanup(b.end)
	return b
}

func (w *world) params(id string, options *anypb.Any) *bootstrap.BootstrapParams {
	p := &bootstrap.BootstrapParams{
		InstanceID: id, Namespace: w.ns, SocketDir: proto.String(filepath.Join(w.dir, "s")),
		ContainerdTtrpcAddress: filepath.Join(w.dir, "ttrpc"), ContainerdGrpcAddress: filepath.Join(w.dir, "grpc"),
	}
	if options != nil {
		p.Extensions = []*bootstrap.Extension{{Value: options}}
	}
	return p
}

// start runs the shim's start act as the daemon does.
func (b *box) start() string {
	b.t.Helper()
	in, err := proto.Marshal(b.params(b.id, b.options))
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := b.act(bytes.NewReader(in), nil, "start").CombinedOutput()
	if err != nil {
		b.t.Fatalf("start: %v: %s", err, out)
	}
	var r bootstrap.BootstrapResult
	if err := proto.Unmarshal(out, &r); err != nil {
		b.t.Fatalf("start printed %q: %v", out, err)
	}
	if r.Version != 3 || r.Protocol != "ttrpc" {
		b.t.Errorf("start printed %v", &r)
	}
	return r.Address
}

// act prepares a run of one of the shim's acts in the bundle.
func (b *box) act(in *bytes.Reader, env []string, args ...string) *exec.Cmd {
	flags := []string{"-namespace", b.ns, "-address", filepath.Join(b.dir, "grpc"), "-publish-binary", "/none", "-id", b.id}
	cmd := exec.Command(binary(b.t), append(flags, args...)...)
	cmd.Dir = b.bundle
	cmd.Env = append(append(os.Environ(), b.env...), env...)
	if in != nil {
		cmd.Stdin = in
	}
	return cmd
}

func (b *box) dial() {
	b.t.Helper()
	c, err := net.Dial("unix", strings.TrimPrefix(b.address, "unix://"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.conn = ttrpc.NewClient(c)
	b.task = task.NewTTRPCTaskClient(b.conn)
}

// end shuts the shim down as the daemon does after a delete.
func (b *box) end() {
	defer b.conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b.task.Delete(ctx, &task.DeleteRequest{ID: b.id})
	b.task.Shutdown(ctx, &task.ShutdownRequest{ID: b.id})
	if b.t.Failed() {
		b.act(nil, nil, "-bundle", b.bundle, "delete").Run()
		b.task.Shutdown(ctx, &task.ShutdownRequest{ID: b.id, Now: true})
	}
}

func (b *box) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// create makes the container over a bind mount of the image.
func (b *box) create(io stdio) uint32 {
	b.t.Helper()
	r, err := b.task.Create(b.ctx(), &task.CreateTaskRequest{
		ID: b.id, Bundle: b.bundle, Options: b.options,
		Rootfs: b.rootfs(),
		Stdin:  io.in, Stdout: io.out, Stderr: io.err, Terminal: io.terminal,
	})
	if err != nil {
		b.t.Fatalf("create: %v", err)
	}
	return r.Pid
}

func (b *box) run(exec string) uint32 {
	b.t.Helper()
	r, err := b.task.Start(b.ctx(), &task.StartRequest{ID: b.id, ExecID: exec})
	if err != nil {
		b.t.Fatalf("start %s: %v", exec, err)
	}
	return r.Pid
}

func (b *box) wait(exec string) uint32 {
	b.t.Helper()
	r, err := b.task.Wait(b.ctx(), &task.WaitRequest{ID: b.id, ExecID: exec})
	if err != nil {
		b.t.Fatalf("wait for %s: %v", exec, err)
	}
	return r.ExitStatus
}

func (b *box) delete(exec string) *task.DeleteResponse {
	b.t.Helper()
	r, err := b.task.Delete(b.ctx(), &task.DeleteRequest{ID: b.id, ExecID: exec})
	if err != nil {
		b.t.Fatalf("delete %s: %v", exec, err)
	}
	return r
}

func (b *box) kill(exec string, signal unix.Signal) {
	b.t.Helper()
	if _, err := b.task.Kill(b.ctx(), &task.KillRequest{ID: b.id, ExecID: exec, Signal: uint32(signal)}); err != nil {
		b.t.Fatalf("kill %s: %v", exec, err)
	}
}

// exec adds a process.
func (b *box) exec(id string, io stdio, args ...string) {
	b.t.Helper()
	data, err := json.Marshal(spec{"args": args, "cwd": "/", "env": []string{"PATH=/bin", "TERM=xterm"}, "user": spec{"uid": 0, "gid": 0}})
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = b.task.Exec(b.ctx(), &task.ExecProcessRequest{
		ID: b.id, ExecID: id, Stdin: io.in, Stdout: io.out, Stderr: io.err, Terminal: io.terminal,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data},
	})
	if err != nil {
		b.t.Fatalf("exec %s: %v", id, err)
	}
}

// stdio names streams, as a client does.
type stdio struct {
	in, out, err string
	terminal     bool
}

// fifo makes a FIFO in the bundle.
func (b *box) fifo(name string) string {
	b.t.Helper()
	path := filepath.Join(b.bundle, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// output is what comes out of a FIFO until its end.
type output struct {
	mu   sync.Mutex
	text []byte
	done chan struct{}
}

// read collects from a FIFO in the background.
func (b *box) read(path string) *output {
	o := &output{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			o.mu.Lock()
			o.text = append(o.text, buf[:n]...)
			o.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return o
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// all waits for the end of the output.
func (o *output) all(t testing.TB) string {
	t.Helper()
	select {
	case <-o.done:
	case <-time.After(patience):
		t.Fatalf("the output does not end after %q", o)
	}
	return o.String()
}

// events is the daemon's side of event publishing.
type events struct {
	path   string
	mu     sync.Mutex
	list   []*types.Envelope
	server *ttrpc.Server
}

func listenEvents(t testing.TB, path string) *events {
	t.Helper()
	e := &events{path: path}
	if err := e.listen(); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *events) listen() error {
	l, err := net.Listen("unix", e.path)
	if err != nil {
		return err
	}
	if e.server, err = ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser())); err != nil {
		return err
	}
	ttrpcevents.RegisterTTRPCEventsService(e.server, e)
	go e.server.Serve(context.Background(), l)
	return nil
}

func (e *events) close() { e.server.Close() }

func (e *events) Forward(ctx context.Context, r *ttrpcevents.ForwardRequest) (*emptypb.Empty, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// One whose answer was lost with the connection comes again.
	if n := len(e.list); n == 0 || !proto.Equal(e.list[n-1], r.Envelope) {
		e.list = append(e.list, r.Envelope)
	}
	return &emptypb.Empty{}, nil
}

// topics lists the events of a container, such as "exit box" and "start one".
func (e *events) topics(t testing.TB, id string) (list []string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.list {
		m, err := ev.Event.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		topic := strings.TrimPrefix(ev.Topic, "/tasks/")
		if c, ok := m.(interface{ GetContainerID() string }); !ok || c.GetContainerID() != id {
			continue
		}
		switch m := m.(type) {
		case *eventspb.TaskExit:
			topic += " " + m.ID
		case *eventspb.TaskExecStarted:
			topic += " " + m.ExecID
		case *eventspb.TaskExecAdded:
			topic += " " + m.ExecID
		}
		list = append(list, topic)
	}
	return list
}

// expect waits until the events of a container are those listed.
func (e *events) expect(t testing.TB, id string, want ...string) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		got := e.topics(t, id)
		if strings.Join(got, ",") == strings.Join(want, ",") {
			return
		}
		if len(got) >= len(want) || time.Now().After(end) {
			t.Fatalf("events of %s are %v, want %v", id, got, want)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (b *box) rootfs() []*types.Mount {
	return []*types.Mount{{Type: "bind", Source: b.image, Options: []string{"rbind", "rw"}}}
}
