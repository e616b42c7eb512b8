// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/event"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/task"
	"slipway/task/shimtest"
)

const ns ident.Namespace = "test"

func TestMain(m *testing.M) {
	shimtest.Main()
	os.Exit(m.Run())
}

type host struct {
	dir, shim string
	db        *meta.DB
	events    *event.Exchange
}

func newHost(t *testing.T) *host {
	h := &host{dir: t.TempDir(), shim: shimtest.Install(t), events: event.New()}
	db, err := meta.Open(filepath.Join(h.dir, "meta.db"), meta.Options{NoSync: true}, nil, nil, h.events)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h.db = db
	return h
}

func (h *host) config(kind string) task.Config {
	long := 30 * time.Second
	return task.Config{
		State: filepath.Join(h.dir, "state", kind), Root: filepath.Join(h.dir, "root", kind), DB: h.db, Events: h.events,
		Timeouts: task.Timeouts{Load: long, State: long, Stats: long, Shutdown: long, Cleanup: long},
	}
}

func (h *host) open(t *testing.T) *Shims {
	t.Helper()
	c, err := NewShims(h.config("sandbox"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *host) create(t *testing.T, c *Shims, opts shimtest.Options) error {
	t.Helper()
	return c.Create(t.Context(), ns, CreateOpts{Sandbox: meta.Sandbox{
		ID: "s", Runtime: meta.Runtime{Name: h.shim, Options: opts.Any()}, Spec: &anypb.Any{Value: []byte("{}")}, Sandboxer: "shim",
	}})
}

func (h *host) checkEmpty(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"state", "root"} {
		if left, _ := filepath.Glob(filepath.Join(h.dir, dir, "*", "*", "*")); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
	shimtest.Eventually(t, "processes to end", func() bool { return len(shimtest.Left(h.shim)) == 0 })
}

func TestLifeOfASandbox(t *testing.T) {
	h := newHost(t)
	c := h.open(t)
	ctx := t.Context()
	if err := h.create(t, c, shimtest.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := h.create(t, c, shimtest.Options{}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	in, err := c.Start(ctx, ns, "s")
	if err != nil || in.Pid == 0 || in.Endpoint.Version != 3 || in.Endpoint.Protocol != "ttrpc" || in.CreatedAt.IsZero() {
		t.Fatal(in, err)
	}
	c.Close()
	c = h.open(t) // it outlives its manager
	if st, err := c.Status(ctx, ns, "s", true); err != nil || st.State != "ready" || st.Endpoint != in.Endpoint || st.Pid != in.Pid {
		t.Error(st, err)
	}
	if p, err := c.Platform(ctx, ns, "s"); err != nil || p.Architecture != "fake" {
		t.Error(p, err)
	}
	if m, err := c.Metrics(ctx, ns, "s"); err != nil || m.ID != "s" {
		t.Error(m, err)
	}
	if err := c.Stop(ctx, ns, "s", time.Second); err != nil {
		t.Error(err)
	}
	if e, err := c.Wait(ctx, ns, "s"); err != nil || e.Status != 7 || e.At.IsZero() {
		t.Error(e, err)
	}
	if err := c.Shutdown(ctx, ns, "s"); err != nil {
		t.Error(err)
	}
	h.checkEmpty(t)
}

func TestUnknownSandboxHasEnded(t *testing.T) {
	c, ctx := newHost(t).open(t), t.Context()
	if st, err := c.Status(ctx, ns, "s", false); err != nil || st.ExitedAt.IsZero() {
		t.Error(st, err)
	}
	if err := c.Stop(ctx, ns, "s", 0); err != nil {
		t.Error(err)
	}
	if err := c.Shutdown(ctx, ns, "s"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		func() error { _, err := c.Start(ctx, ns, "s"); return err }(),
		func() error { _, err := c.Wait(ctx, ns, "s"); return err }(),
		func() error { _, err := c.Platform(ctx, ns, "s"); return err }(),
	} {
		if !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	h := newHost(t)
	c := h.open(t)
	for opts, want := range map[shimtest.Options]string{
		{Reply: "fail"}:  "sandbox s: start shim: no luck today",
		{Create: "fail"}: "sandbox s: create: no room for a sandbox",
	} {
		if err := h.create(t, c, opts); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		h.checkEmpty(t)
	}
}

func TestDeadShimEndsItsSandbox(t *testing.T) {
	h := newHost(t)
	c := h.open(t)
	if err := h.create(t, c, shimtest.Options{}); err != nil {
		t.Fatal(err)
	}
	exits := make(chan Exit)
	go func() {
		e, err := c.Wait(t.Context(), ns, "s")
		if err != nil {
			t.Error(err)
		}
		exits <- e
	}()
	bundle := filepath.Join(h.dir, "state", "sandbox", "test", "s")
	shimtest.Eventually(t, "the shim to wait", func() bool {
		_, err := os.Stat(filepath.Join(bundle, "waiting"))
		return err == nil
	})
	syscall.Kill(shimtest.Pid(t, bundle), syscall.SIGKILL)
	if e := <-exits; e.Status != 137 {
		t.Error(e)
	}
	h.checkEmpty(t)
}

func (h *host) tasks(t *testing.T, cfg task.Config) *task.Manager {
	t.Helper()
	m, err := task.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// A task of a sandbox runs in the sandbox's shim, and no other is started.
func TestTaskRunsInItsSandbox(t *testing.T) {
	h := newHost(t)
	c, ctx := h.open(t), t.Context()
	scope := ident.Scope{Namespace: ns}
	if _, err := h.db.Sandboxes(scope).Create(ctx, meta.Sandbox{ID: "s", Runtime: meta.Runtime{Name: h.shim}, Sandboxer: "shim"}); err != nil {
		t.Fatal(err)
	}
	if err := h.create(t, c, shimtest.Options{}); err != nil {
		t.Fatal(err)
	}
	cfg := h.config("task")
	cfg.Sandboxes = Endpoints{h.db, NewManager(map[string]Controller{"shim": c})}
	m := h.tasks(t, cfg)
	if _, err := h.db.Containers(scope).Create(ctx, meta.Container{
		ID: "c", Sandbox: "s", Runtime: meta.Runtime{Name: "no.such.runtime"}, Spec: &anypb.Any{TypeUrl: "x", Value: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create(ctx, ns, "c", task.CreateOpts{}); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(h.dir, "state", "task", "test", "c")
	if got, _ := os.ReadFile(filepath.Join(bundle, "sandbox")); string(got) != "s" {
		t.Errorf("the bundle's sandbox is %q", got)
	}
	if n := len(shimtest.Left(h.shim)); n != 2 {
		t.Errorf("%d processes, want a shim and a container", n)
	}
	m.Close()
	m = h.tasks(t, cfg)
	if _, err := m.Delete(ctx, ns, "c"); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Status(ctx, ns, "s", false); err != nil || st.State != "created" {
		t.Errorf("the sandbox ended with its task: %v %v", st, err)
	}
	if err := c.Shutdown(ctx, ns, "s"); err != nil {
		t.Error(err)
	}
	if _, err := h.db.Containers(scope).Create(ctx, meta.Container{
		ID: "d", Sandbox: "s", Runtime: meta.Runtime{Name: h.shim}, Spec: &anypb.Any{TypeUrl: "x", Value: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create(ctx, ns, "d", task.CreateOpts{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a task of a sandbox that does not run: %v", err)
	}
	h.checkEmpty(t)
}

func TestControllerMustBeNamed(t *testing.T) {
	m := NewManager(nil)
	if _, err := m.Controller(""); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if _, err := m.Controller("nosuch"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
