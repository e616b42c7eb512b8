// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
	"slipway/test/host"
)

// A pod is a sandbox with one container. No shim of the two systems runs
// sandboxes, so both use the one of the tests, which is theirs to find again.
type pod struct{ shim string }

const (
	podID    = "pod"
	memberID = "member"
)

func dial(t *testing.T, d *host.Daemon) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), d.Address, client.Options{Namespace: "default"})
	fatal(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (p pod) run(t *testing.T, d *host.Daemon) {
	t.Helper()
	c, ctx := dial(t, d), t.Context()
	spec := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{"ociVersion":"1.1.0"}`)}
	sandbox := &types.Sandbox{
		SandboxID: podID, Runtime: &types.Sandbox_Runtime{Name: p.shim}, Spec: spec, Sandboxer: "shim", Labels: map[string]string{"of": "test"},
	}
	_, err := c.Sandboxes().Create(ctx, &sandboxapi.StoreCreateRequest{Sandbox: sandbox})
	fatal(t, err)
	_, err = c.SandboxController().Create(ctx, &sandboxapi.ControllerCreateRequest{SandboxID: podID, Sandbox: sandbox, Sandboxer: "shim"})
	fatal(t, err)
	_, err = c.SandboxController().Start(ctx, &sandboxapi.ControllerStartRequest{SandboxID: podID, Sandboxer: "shim"})
	fatal(t, err)
	_, err = c.Containers().Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{
		ID: memberID, Runtime: &containersapi.Container_Runtime{Name: p.shim}, Spec: spec, Sandbox: podID,
	}})
	fatal(t, err)
	_, err = c.Tasks().Create(ctx, &tasksapi.CreateTaskRequest{ContainerID: memberID})
	fatal(t, err)
	_, err = c.Tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: memberID})
	fatal(t, err)
}

// sandboxes is what a daemon knows of its sandboxes: the records, and what
// their shims say.
func sandboxes(t *testing.T, d *host.Daemon) string {
	t.Helper()
	c, ctx := dial(t, d), t.Context()
	list, err := c.Sandboxes().List(ctx, &sandboxapi.StoreListRequest{})
	fatal(t, err)
	var b strings.Builder
	for _, sb := range list.List {
		s, err := c.SandboxController().Status(ctx, &sandboxapi.ControllerStatusRequest{SandboxID: sb.SandboxID, Sandboxer: sb.Sandboxer})
		fatal(t, err)
		fmt.Fprintln(&b, "sandbox", sb.SandboxID, sb.Runtime.Name, sb.Labels, sb.CreatedAt.AsTime(), sb.UpdatedAt.AsTime(), string(sb.Spec.GetValue()),
			s.State, s.Pid, s.CreatedAt.AsTime())
	}
	return b.String()
}

// use runs one more process in the pod.
func (p pod) use(t *testing.T, d *host.Daemon, id string) {
	t.Helper()
	c, ctx := dial(t, d), t.Context()
	_, err := c.Tasks().Exec(ctx, &tasksapi.ExecProcessRequest{ContainerID: memberID, ExecID: id, Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte("{}")}})
	fatal(t, err)
	_, err = c.Tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: memberID, ExecID: id})
	fatal(t, err)
	_, err = c.Tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: memberID, ExecID: id, Signal: uint32(syscall.SIGKILL)})
	fatal(t, err)
	_, err = c.Tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: memberID, ExecID: id})
	fatal(t, err)
	_, err = c.Tasks().DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: memberID, ExecID: id})
	fatal(t, err)
}

// end ends the container, then the sandbox, and removes all of both.
func (p pod) end(t *testing.T, d *host.Daemon) {
	t.Helper()
	c, ctx := dial(t, d), t.Context()
	_, err := c.Tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: memberID, Signal: uint32(syscall.SIGKILL)})
	fatal(t, err)
	exit, err := c.Tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: memberID})
	fatal(t, err)
	if exit.ExitStatus != 128+uint32(syscall.SIGKILL) {
		t.Errorf("the container of the sandbox ended with %d", exit.ExitStatus)
	}
	_, err = c.Tasks().Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: memberID})
	fatal(t, err)
	_, err = c.Containers().Delete(ctx, &containersapi.DeleteContainerRequest{ID: memberID})
	fatal(t, err)
	d.Ctr(t, "sandboxes", "rm", podID)
	s, err := c.SandboxController().Status(ctx, &sandboxapi.ControllerStatusRequest{SandboxID: podID, Sandboxer: "shim"})
	if err == nil && s.State == "ready" {
		t.Errorf("the sandbox is %s after its removal", s.State)
	}
}
