// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"

	"slipway/internal/ident"
	"slipway/meta"
	"slipway/sandbox"
)

// fakeController notes what it is asked.
type fakeController struct{ calls []string }

func (f *fakeController) note(format string, args ...any) error {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return nil
}

func (f *fakeController) Create(_ context.Context, ns ident.Namespace, o sandbox.CreateOpts) error {
	return f.note("create %s/%s %s %v", ns, o.Sandbox.ID, o.NetNSPath, o.Annotations)
}

func (f *fakeController) Start(_ context.Context, ns ident.Namespace, id string) (sandbox.Instance, error) {
	return sandbox.Instance{Pid: 7, CreatedAt: time.Unix(5, 0), Labels: map[string]string{"k": "v"}}, f.note("start %s/%s", ns, id)
}

func (f *fakeController) Platform(context.Context, ident.Namespace, string) (*types.Platform, error) {
	return &types.Platform{OS: "linux"}, nil
}

func (f *fakeController) Stop(_ context.Context, ns ident.Namespace, id string, timeout time.Duration) error {
	return f.note("stop %s/%s %v", ns, id, timeout)
}

func (f *fakeController) Wait(_ context.Context, ns ident.Namespace, id string) (sandbox.Exit, error) {
	return sandbox.Exit{Status: 3, At: time.Unix(6, 0)}, f.note("wait %s/%s", ns, id)
}

func (f *fakeController) Status(_ context.Context, ns ident.Namespace, id string, verbose bool) (sandbox.Status, error) {
	return sandbox.Status{Pid: 7, State: "SANDBOX_READY"}, f.note("status %s/%s %v", ns, id, verbose)
}

func (f *fakeController) Shutdown(_ context.Context, ns ident.Namespace, id string) error {
	return f.note("shutdown %s/%s", ns, id)
}

func (f *fakeController) Metrics(_ context.Context, _ ident.Namespace, id string) (*types.Metric, error) {
	return &types.Metric{ID: id}, nil
}

func (f *fakeController) Update(_ context.Context, ns ident.Namespace, sb meta.Sandbox, fields []string) error {
	return f.note("update %s/%s %v", ns, sb.ID, fields)
}

func TestSandboxControllerCallsAndEvents(t *testing.T) {
	f := &fakeController{}
	w := newWorld(t, func(w *world) []registrar {
		m := sandbox.NewManager(map[string]sandbox.Controller{"shim": f})
		return []registrar{NewSandboxController(m, w.events)}
	})
	events, _ := w.events.Subscribe(t.Context())
	c, ctx := api.NewControllerClient(w.conn), in(t, "a")
	must := func(_ any, err error) {
		t.Helper()
		fatal(t, err)
	}
	must(c.Create(ctx, &api.ControllerCreateRequest{Sandboxer: "shim", SandboxID: "s", NetnsPath: "/n", Annotations: map[string]string{"k": "v"}}))
	i, err := c.Start(ctx, &api.ControllerStartRequest{Sandboxer: "shim", SandboxID: "s"})
	fatal(t, err)
	if i.SandboxID != "s" || i.Pid != 7 || i.CreatedAt.Seconds != 5 || i.Labels["k"] != "v" {
		t.Errorf("started %v", i)
	}
	st, err := c.Status(ctx, &api.ControllerStatusRequest{Sandboxer: "shim", SandboxID: "s", Verbose: true})
	fatal(t, err)
	if st.State != "SANDBOX_READY" || st.Pid != 7 {
		t.Errorf("status %v", st)
	}
	must(c.Update(ctx, &api.ControllerUpdateRequest{Sandboxer: "shim", SandboxID: "s", Fields: []string{"labels"}}))
	must(c.Stop(ctx, &api.ControllerStopRequest{Sandboxer: "shim", SandboxID: "s", TimeoutSecs: 2}))
	exit, err := c.Wait(ctx, &api.ControllerWaitRequest{Sandboxer: "shim", SandboxID: "s"})
	fatal(t, err)
	if exit.ExitStatus != 3 || exit.ExitedAt.Seconds != 6 {
		t.Errorf("exit %v", exit)
	}
	m, err := c.Metrics(ctx, &api.ControllerMetricsRequest{Sandboxer: "shim", SandboxID: "s"})
	fatal(t, err)
	if m.Metrics.ID != "s" {
		t.Errorf("metrics %v", m)
	}
	must(c.Shutdown(ctx, &api.ControllerShutdownRequest{Sandboxer: "shim", SandboxID: "s"}))
	want := "create a/s /n map[k:v]|start a/s|status a/s true|update a/s [labels]|stop a/s 2s|wait a/s|shutdown a/s"
	if got := strings.Join(f.calls, "|"); got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	for _, topic := range []string{"/sandboxes/create", "/sandboxes/start", "/sandboxes/exit"} {
		if e := <-events; e.Topic != topic || e.Namespace != "a" {
			t.Errorf("event %v, want %s", e, topic)
		}
	}
	create := func(sandboxer string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Create(ctx, &api.ControllerCreateRequest{Sandboxer: sandboxer, SandboxID: "s"})
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"no controller", codes.InvalidArgument, create("")},
		{"unknown controller", codes.NotFound, create("podsandbox")},
		{"platform", codes.Unimplemented, func(ctx context.Context) error {
			_, err := c.Platform(ctx, &api.ControllerPlatformRequest{Sandboxer: "shim", SandboxID: "s"})
			return err
		}},
	})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, create("shim")}})
}
