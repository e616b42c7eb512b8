// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/event"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/task/shimtest"
)

const ns ident.Namespace = "test"

func TestMain(m *testing.M) {
	shimtest.Main()
	victim()
	os.Exit(m.Run())
}

// host is what a manager stands on; managers on it follow one another.
type host struct {
	dir    string
	shim   string
	stderr lockedBuffer

	// For peers: where their sockets are, and how their processes are known.
	sockets, left string
	env           []string
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newHost(t *testing.T) *host { return &host{dir: t.TempDir(), shim: shimtest.Install(t)} }

func (h *host) config() Config {
	return Config{
		State: filepath.Join(h.dir, "state"), Root: filepath.Join(h.dir, "root"), Events: event.New(),
		Address: "/no/grpc", TTRPCAddress: "/no/ttrpc", Binary: "/no/daemon", Stderr: &h.stderr,
		Timeouts: Timeouts{Load: 30 * time.Second, State: 30 * time.Second, Cleanup: 30 * time.Second, Kill: 30 * time.Second},
	}
}

func (h *host) open(t *testing.T, change ...func(*Config)) *Manager {
	t.Helper()
	cfg := h.config()
	db, err := meta.Open(filepath.Join(h.dir, "meta.db"), meta.Options{NoSync: true}, nil, nil, cfg.Events)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DB = db
	for _, c := range change {
		c(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(); db.Close() })
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// close ends a manager before the test does, so that another can follow.
func (m *Manager) closeAll() { m.Close(); m.cfg.DB.Close() }

func (h *host) container(t *testing.T, m *Manager, id string, opts shimtest.Options) {
	t.Helper()
	_, err := m.cfg.DB.Containers(ident.Scope{Namespace: ns}).Create(t.Context(), meta.Container{
		ID: id, Runtime: meta.Runtime{Name: h.shim, Options: opts.Any()},
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{"ociVersion":"1.1.0"}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// running makes a container with a started task.
func (h *host) running(t *testing.T, m *Manager, id string, opts shimtest.Options) {
	t.Helper()
	h.container(t, m, id, opts)
	pid, err := m.Create(t.Context(), ns, id, CreateOpts{})
	if err != nil || pid == 0 {
		t.Fatal(pid, err)
	}
	if started, err := m.Start(t.Context(), ns, id, ""); err != nil || started != pid {
		t.Fatal(started, err)
	}
}

// checkEmpty fails if a task has left anything.
func (h *host) checkEmpty(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"state", "root"} {
		if left, _ := filepath.Glob(filepath.Join(h.dir, dir, "*", "*")); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
	shimtest.Eventually(t, "processes to end", func() bool { return len(shimtest.Left(h.shim)) == 0 })
}

func TestLifeOfATask(t *testing.T) {
	for _, opts := range []shimtest.Options{
		{}, {Reply: "json"}, {Reply: "json", Version: 2}, {Reply: "plain", Version: 2}, {Protocol: "grpc"}, {Create: "old"},
	} {
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			h := newHost(t)
			m := h.open(t)
			h.running(t, m, "c", opts)
			checkRunning(t, m)
			if _, err := m.Create(t.Context(), ns, "c", CreateOpts{}); !errdefs.IsAlreadyExists(err) || err.Error() != "task c: already exists" {
				t.Error(err)
			}
			checkExec(t, m)
			if _, err := m.Delete(t.Context(), ns, "c"); err == nil || err.Error() != "cannot delete a running process" {
				t.Errorf("the shim's own text is expected, not %v", err)
			}
			checkEnd(t, m)
			h.checkEmpty(t)
			if !strings.Contains(h.stderr.String(), "fake shim c serves") {
				t.Errorf("the shim's log is not copied: %q", h.stderr.String())
			}
		})
	}
}

func TestOfManyDeletesOneDeletes(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	for i := range 4 {
		id := fmt.Sprint("c", i)
		h.running(t, m, id, shimtest.Options{})
		if err := m.Kill(t.Context(), ns, id, "", uint32(syscall.SIGKILL), true); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Wait(t.Context(), ns, id, ""); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error)
		for range 8 {
			go func() {
				_, err := m.Delete(t.Context(), ns, id)
				if err == nil {
					_, err = m.Get(t.Context(), ns, id, "")
					err = fmt.Errorf("deleted, and then: %w", err)
				}
				errs <- err
			}()
		}
		deleted := 0
		for range 8 {
			err := <-errs
			if !errdefs.IsNotFound(err) {
				t.Error(err)
			}
			if strings.HasPrefix(err.Error(), "deleted") {
				deleted++
			}
		}
		if deleted != 1 {
			t.Errorf("%d deletes of one task succeed", deleted)
		}
	}
	h.checkEmpty(t)
}

// Whoever asked a shim in vain, because another call ends it, learns that the
// task is gone when it is.
func TestRemovalEndsWaits(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	h.running(t, m, "c", shimtest.Options{})
	s, err := m.shims.Get(ns, "c")
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error)
	err = m.shims.Retire(t.Context(), s, func(ctx context.Context, s *Shim) error {
		go func() {
			_, err := m.shims.AwaitBurial(t.Context(), s)
			waits <- err
		}()
		go func() { waits <- m.shims.Retire(t.Context(), s, m.shutdown) }()
		if _, err := m.Create(ctx, ns, "c", CreateOpts{}); !errdefs.IsAlreadyExists(err) {
			t.Errorf("create while the old task is removed: %v", err)
		}
		return errors.New("it is ended by force")
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-waits; err != nil && (!errdefs.IsNotFound(err) || err.Error() != "task c was deleted: not found") {
			t.Error(err)
		}
	}
	if _, err := m.Create(t.Context(), ns, "c", CreateOpts{}); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
}

func checkRunning(t *testing.T, m *Manager) {
	t.Helper()
	st, err := m.Get(t.Context(), ns, "c", "")
	if err != nil || st.ID != "c" || st.Status != Running || st.Pid == 0 {
		t.Fatal(st, err)
	}
	if list, err := m.List(t.Context(), ns); err != nil || len(list) != 1 || list[0] != st {
		t.Error(list, err)
	}
	if list, err := m.List(t.Context(), "other"); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
	if pids, err := m.Pids(t.Context(), ns, "c"); err != nil || len(pids) != 1 || pids[0].Pid != st.Pid {
		t.Error(pids, err)
	}
}

func checkExec(t *testing.T, m *Manager) {
	t.Helper()
	ctx := t.Context()
	if err := m.Exec(ctx, ns, "c", "", nil, Stdio{}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := m.Exec(ctx, ns, "c", "e", nil, Stdio{}); err != nil {
		t.Fatal(err)
	}
	if pid, err := m.Start(ctx, ns, "c", "e"); err != nil || pid == 0 {
		t.Fatal(pid, err)
	}
	if err := m.Kill(ctx, ns, "c", "e", uint32(syscall.SIGTERM), false); err != nil {
		t.Fatal(err)
	}
	if exit, err := m.Wait(ctx, ns, "c", "e"); err != nil || exit.Status != 128+15 {
		t.Fatal(exit, err)
	}
	if exit, err := m.DeleteProcess(ctx, ns, "c", "e"); err != nil || exit.Status != 128+15 {
		t.Fatal(exit, err)
	}
}

func checkEnd(t *testing.T, m *Manager) {
	t.Helper()
	ctx := t.Context()
	if err := m.Kill(ctx, ns, "c", "", uint32(syscall.SIGKILL), true); err != nil {
		t.Fatal(err)
	}
	if exit, err := m.Wait(ctx, ns, "c", ""); err != nil || exit.Status != 137 {
		t.Fatal(exit, err)
	}
	if err := m.Kill(ctx, ns, "c", "", uint32(syscall.SIGKILL), false); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if exit, err := m.Delete(ctx, ns, "c"); err != nil || exit.Status != 137 || exit.Pid == 0 {
		t.Fatal(exit, err)
	}
	if _, err := m.Get(ctx, ns, "c", ""); !errdefs.IsNotFound(err) || err.Error() != "task c not found" {
		t.Error(err)
	}
}

func TestBundleIsUpstreams(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	h.running(t, m, "c", shimtest.Options{})
	dir := filepath.Join(h.dir, "state", string(ns), "c")
	for name, mode := range map[string]fs.FileMode{
		".": fs.ModeDir | 0o700, "rootfs": fs.ModeDir | 0o711, "work": fs.ModeSymlink | 0o777, "log": fs.ModeNamedPipe | 0o700,
		"config.json": 0o644, "bootstrap.json": 0o644, "shim-binary-path": 0o600,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, mode)
		}
	}
	want := fmt.Sprintf(`{"version":3,"address":"unix://%s/test-c","protocol":"ttrpc"}`, filepath.Dir(h.shim))
	if got, _ := os.ReadFile(filepath.Join(dir, "bootstrap.json")); string(got) != want {
		t.Errorf("bootstrap.json is %s, want %s", got, want)
	}
	if got, _ := os.Readlink(filepath.Join(dir, "work")); got != filepath.Join(h.dir, "root", string(ns), "c") {
		t.Errorf("work is %s", got)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		opts shimtest.Options
		want string
	}{
		{shimtest.Options{Reply: "fail"}, "failed to start shim: no luck today: exit status 1"},
		{shimtest.Options{Reply: "hang"}, "failed to start shim: context deadline exceeded"},
		{shimtest.Options{Reply: "noise"}, "failed to start shim: the shim printed no address"},
		{shimtest.Options{Reply: "newer"}, "failed to start shim: shim API version 9"},
		{shimtest.Options{Create: "fail"}, "failed to create shim task: OCI runtime create failed: no luck"},
		{shimtest.Options{Create: "die"}, "failed to create shim task: task c: create: the shim is gone"},
		{shimtest.Options{Create: "hang"}, "failed to create shim task: task c: create: context deadline exceeded"},
		{shimtest.Options{Create: "hang", Delete: "fail"}, "failed to create shim task: task c: create: context deadline exceeded"},
	} {
		t.Run(fmt.Sprintf("%+v", tt.opts), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			m := h.open(t)
			h.container(t, m, "c", tt.opts)
			ctx, cancel := context.WithCancel(t.Context())
			if strings.Contains(tt.want, "deadline") {
				ctx, cancel = context.WithTimeout(ctx, 3*time.Second)
			}
			defer cancel()
			if _, err := m.Create(ctx, ns, "c", CreateOpts{}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			h.checkEmpty(t)
			h.container(t, m, "d", shimtest.Options{})
			if _, err := m.Create(t.Context(), ns, "d", CreateOpts{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnknownRuntimeIsNotInstalled(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	if _, err := m.Create(t.Context(), ns, "c", CreateOpts{}); !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), `container "c" in namespace "test"`) {
		t.Error(err)
	}
	for runtime, want := range map[string]string{
		"io.containerd.nosuch.v7": `failed to start shim: runtime "io.containerd.nosuch.v7" binary not installed "containerd-shim-nosuch-v7": file does not exist`,
		"nosuch":                  "failed to start shim: invalid runtime name",
		"./a.b":                   "failed to start shim: invalid runtime name",
		"/no/such/shim":           `failed to start shim: runtime "/no/such/shim": stat`,
	} {
		id := strings.ReplaceAll(strings.Trim(runtime, "./"), "/", "-")
		_, err := m.cfg.DB.Containers(ident.Scope{Namespace: ns}).Create(t.Context(), meta.Container{
			ID: id, Runtime: meta.Runtime{Name: runtime}, Spec: &anypb.Any{TypeUrl: "x", Value: []byte("{}")}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Create(t.Context(), ns, id, CreateOpts{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", runtime, err, want)
		}
	}
	h.checkEmpty(t)
}

func TestTaskSurvivesManager(t *testing.T) {
	for _, opts := range []shimtest.Options{{}, {Version: 2, Reply: "json"}, {Protocol: "grpc"}} {
		h := newHost(t)
		m := h.open(t)
		h.running(t, m, "c", opts)
		m.closeAll()
		m = h.open(t)
		checkRunning(t, m)
		checkExec(t, m)
		checkEnd(t, m)
		h.checkEmpty(t)
	}
}

// Daemons before 2.0 wrote the address alone, and those before 1.7 not which
// shim it is.
func TestOldBundleIsLoaded(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	h.running(t, m, "c", shimtest.Options{Version: 2, Reply: "plain"})
	m.closeAll()
	dir := filepath.Join(h.dir, "state", string(ns), "c")
	if err := os.WriteFile(filepath.Join(dir, "address"), []byte("unix://"+filepath.Dir(h.shim)+"/test-c"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bootstrap.json", "shim-binary-path"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	m = h.open(t)
	checkRunning(t, m)
	take := watch(t, m, ends...)
	syscall.Kill(shimtest.Pid(t, dir), syscall.SIGKILL)
	checkLossEvents(t, take(2))
	h.checkEmpty(t)
}

func TestStuckShimFailsByDeadline(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	h.container(t, m, "c", shimtest.Options{})
	if _, err := m.Create(t.Context(), ns, "c", CreateOpts{}); err != nil {
		t.Fatal(err)
	}
	m.closeAll()
	m = h.open(t, func(c *Config) { c.Timeouts.Call, c.Timeouts.Stats = 100*time.Millisecond, 100*time.Millisecond })
	shimtest.Stop(t, shimtest.Pid(t, filepath.Join(h.dir, "state", string(ns), "c")))
	for call, err := range map[string]error{
		"delete": func() error { _, err := m.Delete(t.Context(), ns, "c"); return err }(),
		"start":  func() error { _, err := m.Start(t.Context(), ns, "c", ""); return err }(),
		"stats":  func() error { _, err := m.Stats(t.Context(), ns, "c"); return err }(),
		"pause":  m.Pause(t.Context(), ns, "c"),
	} {
		want := "task c: " + call + ": the shim does not answer: context deadline exceeded after 100ms"
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// watch collects the topics of events until their number is n.
func watch(t *testing.T, m *Manager, filters ...string) func(n int) []event.Envelope {
	ch, _ := m.cfg.Events.Subscribe(t.Context(), filters...)
	return func(n int) (got []event.Envelope) {
		for range n {
			select {
			case e := <-ch:
				got = append(got, e)
			case <-time.After(time.Minute):
				t.Fatalf("only %d of %d events have come", len(got), n)
			}
		}
		return got
	}
}

func TestDeadShimEndsItsTask(t *testing.T) {
	for _, opts := range []shimtest.Options{{}, {Delete: "fail"}, {Protocol: "grpc"}} {
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			h := newHost(t)
			m := h.open(t)
			h.running(t, m, "c", opts)
			take := watch(t, m)
			exits := make(chan Exit)
			go func() {
				exit, err := m.Wait(context.Background(), ns, "c", "")
				if err != nil {
					t.Error(err)
				}
				exits <- exit
			}()
			bundle := filepath.Join(h.dir, "state", string(ns), "c")
			shimtest.Eventually(t, "the shim to wait", func() bool {
				_, err := os.Stat(filepath.Join(bundle, "waiting"))
				return err == nil
			})
			syscall.Kill(shimtest.Pid(t, bundle), syscall.SIGKILL)
			if exit := <-exits; exit.Status != 137 {
				t.Errorf("exit %+v", exit)
			}
			checkLossEvents(t, take(2))
			if _, err := m.Get(t.Context(), ns, "c", ""); !errdefs.IsNotFound(err) {
				t.Error(err)
			}
			h.checkEmpty(t)
		})
	}
}

// ends are the events that follow the loss of a shim.
var ends = []string{"topic==/tasks/exit", "topic==/tasks/delete"}

func checkLossEvents(t *testing.T, got []event.Envelope) {
	t.Helper()
	if got[0].Topic != "/tasks/exit" || got[1].Topic != "/tasks/delete" {
		t.Fatal(got)
	}
	var e events.TaskExit
	if err := got[0].Event.UnmarshalTo(&e); err != nil || e.ID != "c" || e.ContainerID != "c" || e.ExitStatus != 137 {
		t.Error(&e, err)
	}
	if got[0].Event.TypeUrl != "containerd.events.TaskExit" {
		t.Error(got[0].Event.TypeUrl)
	}
}

func TestStoppedShimDoesNotSaveItsContainer(t *testing.T) {
	h := newHost(t)
	m := h.open(t, func(c *Config) { c.Timeouts.Kill = 100 * time.Millisecond })
	h.running(t, m, "c", shimtest.Options{})
	h.running(t, m, "other", shimtest.Options{})
	take := watch(t, m)
	pid := shimtest.Pid(t, filepath.Join(h.dir, "state", string(ns), "c"))
	shimtest.Stop(t, pid)
	if err := m.Kill(t.Context(), ns, "c", "", uint32(syscall.SIGTERM), false); !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "task c: kill: the shim does not answer") {
		t.Errorf("SIGTERM: %v", err)
	}
	if st, err := m.Get(t.Context(), ns, "other", ""); err != nil || st.Status != Running {
		t.Errorf("a stuck shim holds up another: %v %v", st, err)
	}
	if err := m.Kill(t.Context(), ns, "c", "", uint32(syscall.SIGKILL), false); err != nil {
		t.Fatal(err)
	}
	checkLossEvents(t, take(2))
	if list, err := m.List(t.Context(), ns); err != nil || len(list) != 1 || list[0].ID != "other" {
		t.Error(list, err)
	}
}

func TestStuckShimIsOfUnknownState(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	h.running(t, m, "c", shimtest.Options{})
	m.closeAll()
	pid := shimtest.Pid(t, filepath.Join(h.dir, "state", string(ns), "c"))
	shimtest.Stop(t, pid)
	m = h.open(t, func(c *Config) { c.Timeouts.Load, c.Timeouts.State = 100*time.Millisecond, 100*time.Millisecond })
	if list, err := m.List(t.Context(), ns); err != nil || len(list) != 1 || list[0].Status != Unknown {
		t.Error(list, err)
	}
	syscall.Kill(pid, syscall.SIGCONT)
	shimtest.Eventually(t, "the shim to answer", func() bool {
		st, err := m.Get(t.Context(), ns, "c", "")
		return err == nil && st.Status == Running
	})
}

// Nor does it keep the task of a container that has ended already.
func TestStoppedShimOfAnEndedContainerIsKilled(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	h.running(t, m, "c", shimtest.Options{})
	st, err := m.Get(t.Context(), ns, "c", "")
	if err != nil {
		t.Fatal(err)
	}
	m.closeAll()
	shimtest.Stop(t, shimtest.Pid(t, filepath.Join(h.dir, "state", string(ns), "c")))
	syscall.Kill(int(st.Pid), syscall.SIGKILL)
	shimtest.Eventually(t, "the container to end", func() bool {
		_, err := startOf(int(st.Pid))
		return errors.Is(err, os.ErrProcessDone)
	})
	m = h.open(t, func(c *Config) { c.Timeouts.Load, c.Timeouts.Kill = 100*time.Millisecond, 100*time.Millisecond })
	take := watch(t, m, ends...)
	if err := m.Kill(t.Context(), ns, "c", "", uint32(syscall.SIGKILL), false); err != nil {
		t.Fatal(err)
	}
	checkLossEvents(t, take(2))
	h.checkEmpty(t)
}

func TestLoadCleansAfterDeadShim(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	h.running(t, m, "c", shimtest.Options{})
	m.closeAll()
	syscall.Kill(shimtest.Pid(t, filepath.Join(h.dir, "state", string(ns), "c")), syscall.SIGKILL)
	for _, dir := range []string{"state/test/empty", "root/test/stale/deep", "state/test/.hidden/rootfs", "root/test/.hidden", "state/test/nothing/rootfs"} {
		if err := os.MkdirAll(filepath.Join(h.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.open(t)
	h.checkEmpty(t)
}

func TestRuntimeInfo(t *testing.T) {
	h := newHost(t)
	m := h.open(t)
	info, err := m.RuntimeInfo(t.Context(), h.shim, shimtest.Options{}.Any())
	if err != nil || info.Name != "fake" || info.Annotations["is"] != "fake" {
		t.Error(info, err)
	}
}
