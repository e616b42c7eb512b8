// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/event"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/oci"
	"slipway/task/shimtest"
)

// peer is a host with upstream's shim and an OCI runtime.
type peer struct {
	*host
	rootfs string
	events *event.Exchange
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	shim, err := filepath.Abs("../.cache/peers/containerd-shim-runc-v2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(shim); err != nil {
		t.Skip("upstream's shim has not been built")
	}
	for _, cmd := range []string{"runc", "busybox"} {
		if _, err := exec.LookPath(cmd); err != nil {
			t.Skipf("%s is not installed", cmd)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	p := &peer{host: newHost(t), events: event.New()}
	p.rootfs = filepath.Join(p.dir, "busybox")
	makeRootfs(t, p.rootfs)
	left := p.shim
	p.shim = shim
	serveEvents(t, filepath.Join(filepath.Dir(left), "ttrpc"), p.events)
	t.Cleanup(func() { p.checkNoMounts(t) })
	p.env = []string{"SHIMTEST_DIR=" + filepath.Dir(left)}
	p.sockets, p.left = filepath.Dir(left), left
	return p
}

func makeRootfs(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep"} {
		if err := os.WriteFile(filepath.Join(dir, "bin", name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// forwarder serves what shims publish to.
type forwarder struct{ events *event.Exchange }

func (f forwarder) Forward(ctx context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	e := r.Envelope
	return &emptypb.Empty{}, f.events.Forward(ctx, event.Envelope{
		Timestamp: e.Timestamp.AsTime(), Namespace: ident.Namespace(e.Namespace), Topic: e.Topic, Event: e.Event,
	})
}

func serveEvents(t *testing.T, socket string, events *event.Exchange) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(s, forwarder{events})
	done := make(chan error)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() { s.Close(); <-done })
}

func (p *peer) manager(t *testing.T, change ...func(*Config)) *Manager {
	return p.open(t, append(change, func(c *Config) {
		c.Events, c.SocketDir, c.Env = p.events, p.sockets, p.env
		c.TTRPCAddress = filepath.Join(p.sockets, "ttrpc")
	})...)
}

func (p *peer) checkNoMounts(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), p.dir) {
		t.Error("a mount is left")
		mount.UnmountRecursive(p.dir)
	}
}

func (p *peer) runtime(t *testing.T) meta.Runtime {
	t.Helper()
	options, err := typeurl.MarshalAnyToProto(&runcoptions.Options{Root: filepath.Join(p.dir, "runc")})
	if err != nil {
		t.Fatal(err)
	}
	return meta.Runtime{Name: p.shim, Options: options}
}

// run starts a shell script as a container.
func (p *peer) run(t *testing.T, m *Manager, id, script string, opts ...oci.Opt) uint32 {
	t.Helper()
	spec := oci.Default(string(ns), id)
	opts = append(opts, oci.WithArgs("/bin/sh", "-c", script), oci.WithCgroup("/slipway-test/"+filepath.Base(p.sockets)+"-"+id))
	if err := oci.Apply(t.Context(), spec, opts...); err != nil {
		t.Fatal(err)
	}
	if _, err := m.cfg.DB.Containers(ident.Scope{Namespace: ns}).Create(t.Context(), meta.Container{
		ID: id, Runtime: p.runtime(t), Spec: jsonAny(t, "Spec", spec)}); err != nil {
		t.Fatal(err)
	}
	pid, err := m.Create(t.Context(), ns, id, CreateOpts{Rootfs: []mount.Mount{{Type: "bind", Source: p.rootfs, Options: []string{"rbind", "rw"}}}})
	if err != nil {
		t.Fatalf("%v; shim: %s", err, p.stderr.String())
	}
	if started, err := m.Start(t.Context(), ns, id, ""); err != nil || started != pid {
		t.Fatal(started, err)
	}
	return pid
}

func jsonAny(t *testing.T, kind string, v any) *anypb.Any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/" + kind, Value: data}
}

// finish checks that nothing is left of the container.
func (p *peer) finish(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"state/test/*", "root/test/*", "runc/test/*"} {
		shimtest.Eventually(t, dir+" to go", func() bool {
			left, _ := filepath.Glob(filepath.Join(p.dir, dir))
			return len(left) == 0
		})
	}
	shimtest.Eventually(t, "the shim to end", func() bool { return len(shimtest.Left(p.left)) == 0 })
	shimtest.Eventually(t, "the cgroups to go", func() bool {
		left, _ := filepath.Glob("/sys/fs/cgroup/*/slipway-test/" + filepath.Base(p.sockets) + "-*")
		return len(left) == 0
	})
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/slipway-test")
	for _, dir := range parents {
		os.Remove(dir) // fails while another test uses it
	}
}

// execExits runs a process in the container c that exits with 7.
func execExits(t *testing.T, m *Manager) {
	t.Helper()
	process := &specs.Process{Args: []string{"/bin/sh", "-c", "exit 7"}, Cwd: "/", Env: []string{"PATH=/bin"}}
	if err := m.Exec(t.Context(), ns, "c", "e", jsonAny(t, "Process", process), Stdio{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), ns, "c", "e"); err != nil {
		t.Fatal(err)
	}
	if exit, err := m.Wait(t.Context(), ns, "c", "e"); err != nil || exit.Status != 7 {
		t.Fatal(exit, err)
	}
	if exit, err := m.DeleteProcess(t.Context(), ns, "c", "e"); err != nil || exit.Status != 7 {
		t.Fatal(exit, err)
	}
}

func TestUpstreamShimRunsATask(t *testing.T) {
	p := newPeer(t)
	m := p.manager(t)
	take := watch(t, m)
	p.run(t, m, "c", "exec sleep 1000")
	checkRunning(t, m)
	execExits(t, m)
	m.closeAll()
	m = p.manager(t)
	checkRunning(t, m)
	if stats, err := m.Stats(t.Context(), ns, "c"); err != nil || !strings.HasPrefix(stats.GetTypeUrl(), "io.containerd.cgroups.v") {
		t.Error(stats.GetTypeUrl(), err)
	}
	if err := m.Pause(t.Context(), ns, "c"); err != nil {
		t.Error(err)
	}
	if st, err := m.Get(t.Context(), ns, "c", ""); err != nil || st.Status != Paused {
		t.Error(st, err)
	}
	if err := m.Resume(t.Context(), ns, "c"); err != nil {
		t.Error(err)
	}
	checkEnd(t, m)
	p.finish(t)
	var topics []string
	for _, e := range take(7) {
		topics = append(topics, strings.TrimPrefix(e.Topic, "/tasks/"))
	}
	if got := topics[:5]; !slices.Equal(got, []string{"create", "start", "exec-added", "exec-started", "exit"}) {
		t.Errorf("events: %v", topics)
	}
}

func TestUpstreamShimFailsToCreate(t *testing.T) {
	p := newPeer(t)
	m := p.manager(t)
	spec := oci.Default(string(ns), "c")
	spec.Process.Args = []string{"/no/such/command"}
	if _, err := m.cfg.DB.Containers(ident.Scope{Namespace: ns}).Create(t.Context(), meta.Container{
		ID: "c", Runtime: p.runtime(t), Spec: jsonAny(t, "Spec", spec)}); err != nil {
		t.Fatal(err)
	}
	_, err := m.Create(t.Context(), ns, "c", CreateOpts{Rootfs: []mount.Mount{{Type: "bind", Source: p.rootfs, Options: []string{"rbind"}}}})
	if err == nil || !strings.HasPrefix(err.Error(), "failed to create shim task: OCI runtime create failed: ") || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	p.finish(t)
}

// Containers of one group share a shim, which ends with the last of them.
func TestUpstreamShimIsShared(t *testing.T) {
	p := newPeer(t)
	m := p.manager(t)
	group := oci.WithAnnotations(map[string]string{"io.containerd.runc.v2.group": "g"})
	p.run(t, m, "d", "exec sleep 1000", group)
	p.run(t, m, "c", "exec sleep 1000", group)
	if n := len(shimtest.Left(p.left)); n != 1 {
		t.Errorf("%d shims", n)
	}
	m.closeAll()
	m = p.manager(t)
	if err := m.Kill(t.Context(), ns, "d", "", uint32(syscall.SIGKILL), false); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Wait(t.Context(), ns, "d", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Delete(t.Context(), ns, "d"); err != nil {
		t.Fatal(err)
	}
	checkRunning(t, m)
	checkEnd(t, m)
	p.finish(t)
}

func TestUpstreamShimDies(t *testing.T) {
	p := newPeer(t)
	m := p.manager(t)
	pid := p.run(t, m, "c", "exec sleep 1000")
	take := watch(t, m, ends...)
	for _, pid := range shimtest.Left(p.left) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	checkLossEvents(t, take(2))
	if start, err := startOf(int(pid)); err == nil {
		t.Errorf("the container's process, started at %d, lives", start)
	}
	p.finish(t)
}

// The processes of a container without its own pid namespace do not end with
// its first one.
func TestUpstreamShimIsStopped(t *testing.T) {
	p := newPeer(t)
	m := p.manager(t, func(c *Config) { c.Timeouts.Kill = 200 * time.Millisecond })
	p.run(t, m, "c", "sleep 1001 & sleep 1002 & exec sleep 1000", oci.WithHostNamespace(specs.PIDNamespace))
	take := watch(t, m, ends...)
	for _, pid := range shimtest.Left(p.left) {
		shimtest.Stop(t, pid)
	}
	if err := m.Kill(t.Context(), ns, "c", "", uint32(syscall.SIGKILL), true); err != nil {
		t.Fatal(err)
	}
	checkLossEvents(t, take(2))
	p.finish(t)
}
