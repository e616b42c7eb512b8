// SPDX-License-Identifier: Apache-2.0

// Package task runs containers. A task is a container that has processes; its
// shim is the process that is their parent and outlives the daemon. The
// Manager starts shims, hands each request to the right one, finds them again
// after a restart, and ends what is left of a task whose shim has died.
//
// It does not know what a shim does with a container, and keeps no state of a
// task but the connection to its shim: a request is answered by the shim. No
// lock is held during a call, so that a shim that is stuck delays only those
// who ask for its task, and those up to a deadline.
package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/internal/fault"
	"slipway/internal/ident"
	"slipway/internal/mount/mountproto"
)

// A Manager runs the tasks of all namespaces.
type Manager struct {
	cfg   Config
	shims *Shims
}

// New makes the directories. Tasks that run already are found by Load.
func New(cfg Config) (*Manager, error) {
	if cfg.DefaultRuntime == "" {
		cfg.DefaultRuntime = "io.containerd.runc.v2"
	}
	m := &Manager{cfg: cfg}
	shims, err := NewShims("task", cfg, m.lost)
	if err != nil {
		return nil, err
	}
	m.cfg, m.shims = shims.cfg, shims
	return m, nil
}

// Load finds the shims of an earlier daemon again. It cleans up after those
// that are gone, and publishes that their tasks have ended.
func (m *Manager) Load(ctx context.Context) error {
	return m.shims.Load(ctx, m.inspect, m.shutdown)
}

// Close disconnects from the shims and leaves them running.
func (m *Manager) Close() error { return m.shims.Close() }

// inspect asks a shim that was found for its task.
func (m *Manager) inspect(ctx context.Context, s *Shim) error {
	var st taskapi.StateResponse
	if err := s.task(ctx, "State", m.cfg.Timeouts.Load, &taskapi.StateRequest{ID: s.b.id}, &st); err != nil {
		return err
	}
	s.keepStreams(Stdio{Stdin: st.Stdin, Stdout: st.Stdout, Stderr: st.Stderr, Terminal: st.Terminal})
	return nil
}

// lost publishes the end of a task, which its shim could not.
func (m *Manager) lost(ns ident.Namespace, id string, exit Exit) {
	at := timestamppb.New(exit.At)
	m.publish(ns, id, "/tasks/exit", &events.TaskExit{ContainerID: id, ID: id, Pid: exit.Pid, ExitStatus: exit.Status, ExitedAt: at})
	m.publish(ns, id, "/tasks/delete", &events.TaskDelete{ContainerID: id, Pid: exit.Pid, ExitStatus: exit.Status, ExitedAt: at})
}

func (m *Manager) publish(ns ident.Namespace, id, topic string, msg proto.Message) {
	if err := m.cfg.Events.Publish(context.Background(), ns, topic, msg); err != nil {
		m.cfg.Log.Error("task: publish", "topic", topic, "namespace", ns, "id", id, "error", err)
	}
}

// Create makes a task of a container that exists and returns its first
// process. On failure nothing is left of it.
func (m *Manager) Create(ctx context.Context, ns ident.Namespace, id string, opts CreateOpts) (pid uint32, err error) {
	start, err := m.startOpts(ctx, ns, id, opts)
	if err != nil {
		return 0, err
	}
	s, err := m.shims.Start(ctx, ns, id, start)
	if errdefs.IsAlreadyExists(err) {
		return 0, err
	}
	if err != nil {
		return 0, fmt.Errorf("failed to start shim: %w", err)
	}
	defer func() {
		if err != nil {
			m.undo(context.WithoutCancel(ctx), s, unanswered(ctx, err))
		}
	}()
	if opts.Rootfs, err = m.activate(ctx, s, opts.Rootfs); err != nil {
		return 0, fmt.Errorf("task %s: root file system: %w", id, err)
	}
	pid, err = m.create(ctx, s, opts, start.Options)
	if err != nil {
		return 0, fmt.Errorf("failed to create shim task: %w", err)
	}
	fault.Point("task.created")
	s.remember()
	s.keepStreams(opts.Stdio)
	return pid, nil
}

// startOpts says which shim the container wants.
func (m *Manager) startOpts(ctx context.Context, ns ident.Namespace, id string, opts CreateOpts) (StartOpts, error) {
	c, err := m.cfg.DB.Containers(ident.Scope{Namespace: ns}).Get(ctx, id)
	if err != nil {
		return StartOpts{}, err
	}
	if m.cfg.Admit != nil {
		if err := m.cfg.Admit(ctx, ns, c.Image); err != nil {
			return StartOpts{}, fmt.Errorf("container %s: %w", id, err)
		}
	}
	start := StartOpts{Spec: c.Spec, Runtime: c.Runtime.Name, RuntimePath: opts.RuntimePath, Options: opts.Options, Sandbox: c.Sandbox}
	if start.Runtime == "" {
		start.Runtime = m.cfg.DefaultRuntime
	}
	if start.Options == nil {
		start.Options = c.Runtime.Options
	}
	start.Endpoint, err = m.sandboxEndpoint(ctx, ns, c.Sandbox, opts.Endpoint)
	return start, err
}

// sandboxEndpoint finds the shim of a container's sandbox that can be used
// for the task too. Shims before version 3 are started for each task, and
// group themselves.
func (m *Manager) sandboxEndpoint(ctx context.Context, ns ident.Namespace, sandbox string, given Endpoint) (Endpoint, error) {
	if given.Address == "" {
		if sandbox == "" || m.cfg.Sandboxes == nil {
			return Endpoint{}, nil
		}
		var err error
		if given, err = m.cfg.Sandboxes.Endpoint(ctx, ns, sandbox); errdefs.IsNotFound(err) {
			return Endpoint{}, nil
		} else if err != nil {
			return Endpoint{}, fmt.Errorf("sandbox %s: %w", sandbox, err)
		}
	}
	if given.Version < 3 {
		return Endpoint{}, nil
	}
	return given, nil
}

func (m *Manager) create(ctx context.Context, s *Shim, opts CreateOpts, options *anypb.Any) (uint32, error) {
	req := &taskapi.CreateTaskRequest{
		ID: s.b.id, Bundle: s.b.path, Rootfs: mountproto.Of(opts.Rootfs), Checkpoint: opts.Checkpoint, Options: options,
		Terminal: opts.Stdio.Terminal, Stdin: opts.Stdio.Stdin, Stdout: opts.Stdio.Stdout, Stderr: opts.Stdio.Stderr,
	}
	timeout := m.cfg.Timeouts.Call
	if opts.Checkpoint != "" {
		timeout = 0 // a restore takes as long as the memory is large
	}
	var resp taskapi.CreateTaskResponse
	err := s.task(ctx, "Create", timeout, req, &resp)
	if errdefs.IsNotImplemented(err) && s.Endpoint().Version == 3 {
		s.downgrade(2) // a shim that announces more than it serves
		err = s.task(ctx, "Create", timeout, req, &resp)
	}
	return resp.Pid, err
}

// unanswered says whether a call was given up before the shim answered, which
// may then still be about it.
func unanswered(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errdefs.IsCanceled(err) || errdefs.IsDeadlineExceeded(err)
}

// undo takes back a task whose creation failed: in good order if the shim
// answers, else by force. A shim that is still at it is not asked: it would
// say that it knows of no task, stay, and have one a moment later.
func (m *Manager) undo(ctx context.Context, s *Shim, force bool) {
	ctx, cancel := context.WithTimeout(ctx, 3*m.cfg.Timeouts.Cleanup)
	defer cancel()
	err := error(errdefs.ErrUnknown)
	if !force {
		err = s.task(ctx, "Delete", m.cfg.Timeouts.Cleanup, &taskapi.DeleteRequest{ID: s.b.id}, &taskapi.DeleteResponse{})
	}
	if err == nil || errdefs.IsNotFound(err) {
		err = m.shims.Retire(ctx, s, m.shutdown)
	} else {
		err = m.shims.Abandon(ctx, s)
	}
	if err != nil {
		m.cfg.Log.Error("task: remains of a failed create", "namespace", s.b.ns, "id", s.b.id, "error", err)
	}
	m.deactivate(ctx, s)
}

// shutdown asks a shim to end if it has no other task.
func (m *Manager) shutdown(ctx context.Context, s *Shim) error {
	if s.attached {
		return nil
	}
	err := s.task(ctx, "Shutdown", m.cfg.Timeouts.Shutdown, &taskapi.ShutdownRequest{ID: s.b.id}, nothing())
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// Delete removes a task that has stopped.
func (m *Manager) Delete(ctx context.Context, ns ident.Namespace, id string) (Exit, error) {
	s, err := m.shims.Get(ns, id)
	if err != nil {
		return Exit{}, err
	}
	var resp taskapi.DeleteResponse
	err = s.task(ctx, "Delete", m.cfg.Timeouts.Call, &taskapi.DeleteRequest{ID: id}, &resp)
	if errors.Is(err, errGone) {
		return m.shims.AwaitBurial(ctx, s)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return Exit{}, err
	}
	fault.Point("task.deleted")
	// From here on the task must go, or its name is taken for ever.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.Timeouts.Call)
	defer cancel()
	if serr := m.shims.Retire(ctx, s, m.shutdown); serr != nil {
		return Exit{}, fmt.Errorf("task %s: delete: %w", id, serr)
	}
	m.deactivate(ctx, s)
	return exitOf(&resp), err
}

// DeleteProcess removes a process that was added by Exec and has stopped.
func (m *Manager) DeleteProcess(ctx context.Context, ns ident.Namespace, id, exec string) (Exit, error) {
	if exec == "" {
		return Exit{}, fmt.Errorf("task %s: delete process: exec id is required: %w", id, errdefs.ErrInvalidArgument)
	}
	var resp taskapi.DeleteResponse
	err := m.call(ctx, ns, id, "Delete", &taskapi.DeleteRequest{ID: id, ExecID: exec}, &resp)
	return exitOf(&resp), err
}

func exitOf(r *taskapi.DeleteResponse) Exit {
	return Exit{Pid: r.Pid, Status: r.ExitStatus, At: timeOf(r.ExitedAt)}
}

// timeOf converts a time from the wire, where none is nil.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Kill sends a signal to a process, or to all of the task. A shim that does
// not answer does not save its container from SIGKILL: see kill.
func (m *Manager) Kill(ctx context.Context, ns ident.Namespace, id, exec string, signal uint32, all bool) error {
	s, err := m.shims.Get(ns, id)
	if err != nil {
		return err
	}
	req := &taskapi.KillRequest{ID: id, ExecID: exec, Signal: signal, All: all}
	err = s.task(ctx, "Kill", m.cfg.Timeouts.Kill, req, nothing())
	if exec == "" && syscall.Signal(signal) == syscall.SIGKILL && errors.Is(err, errStuck) {
		return m.kill(s, err)
	}
	return err
}

// kill ends a container without the help of its shim, which is ended too
// unless others need it, so that the task can be cleaned up.
func (m *Manager) kill(s *Shim, cause error) error {
	p := s.firstProcess()
	if p.pid == 0 {
		var err error
		if p, err = s.b.firstProcess(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("%w, and its container's first process is not known: %w", cause, err)
		}
	}
	m.cfg.Log.Warn("task: the shim does not answer, killing the container by its processes",
		"namespace", s.b.ns, "id", s.b.id, "pid", p.pid, "cgroup", p.cgroup.path)
	if err := p.kill(); err != nil {
		return errors.Join(cause, err)
	}
	if m.shims.endShim(s.b) {
		s.conn.Close() // even if its socket lives on in another process
	}
	return nil
}

// Start runs a created process and returns its number.
func (m *Manager) Start(ctx context.Context, ns ident.Namespace, id, exec string) (uint32, error) {
	var resp taskapi.StartResponse
	err := m.call(ctx, ns, id, "Start", &taskapi.StartRequest{ID: id, ExecID: exec}, &resp)
	return resp.Pid, err
}

// Get describes a process. Its Status is Unknown if the shim does not answer
// in time.
func (m *Manager) Get(ctx context.Context, ns ident.Namespace, id, exec string) (State, error) {
	s, err := m.shims.Get(ns, id)
	if err != nil {
		return State{}, err
	}
	return m.state(ctx, s, exec)
}

func (m *Manager) state(ctx context.Context, s *Shim, exec string) (State, error) {
	id := s.b.id
	if exec != "" {
		id = exec
	}
	var r taskapi.StateResponse
	err := s.task(ctx, "State", m.cfg.Timeouts.State, &taskapi.StateRequest{ID: s.b.id, ExecID: exec}, &r)
	switch {
	case errors.Is(err, errStuck):
		return State{ID: id, Status: Unknown}, nil
	case errors.Is(err, errGone):
		return State{}, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("task %s not found", s.b.id))
	case err != nil:
		return State{}, err
	}
	return State{
		ID: id, Pid: r.Pid, Status: Status(r.Status), ExitStatus: r.ExitStatus, ExitedAt: timeOf(r.ExitedAt),
		Stdio: Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	}, nil
}

// List describes the first processes of the tasks of a namespace, by id.
func (m *Manager) List(ctx context.Context, ns ident.Namespace) ([]State, error) {
	if err := ns.Check(); err != nil {
		return nil, err
	}
	return m.states(ctx, m.shims.list(ns)), ctx.Err()
}

// Exec adds a process, which Start runs.
func (m *Manager) Exec(ctx context.Context, ns ident.Namespace, id, exec string, spec *anypb.Any, io Stdio) error {
	if err := ident.Check(exec); err != nil {
		return fmt.Errorf("task %s: exec id: %w", id, err)
	}
	return m.call(ctx, ns, id, "Exec", &taskapi.ExecProcessRequest{
		ID: id, ExecID: exec, Spec: spec, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr,
	}, nothing())
}

// ResizePty tells the terminal of a process its size.
func (m *Manager) ResizePty(ctx context.Context, ns ident.Namespace, id, exec string, width, height uint32) error {
	return m.call(ctx, ns, id, "ResizePty", &taskapi.ResizePtyRequest{ID: id, ExecID: exec, Width: width, Height: height}, nothing())
}

// CloseIO closes the standard input of a process.
func (m *Manager) CloseIO(ctx context.Context, ns ident.Namespace, id, exec string, stdin bool) error {
	return m.call(ctx, ns, id, "CloseIO", &taskapi.CloseIORequest{ID: id, ExecID: exec, Stdin: stdin}, nothing())
}

// Pause freezes a task.
func (m *Manager) Pause(ctx context.Context, ns ident.Namespace, id string) error {
	return m.call(ctx, ns, id, "Pause", &taskapi.PauseRequest{ID: id}, nothing())
}

// Resume thaws a task.
func (m *Manager) Resume(ctx context.Context, ns ident.Namespace, id string) error {
	return m.call(ctx, ns, id, "Resume", &taskapi.ResumeRequest{ID: id}, nothing())
}

// Pids lists the processes in a task.
func (m *Manager) Pids(ctx context.Context, ns ident.Namespace, id string) (list []Process, err error) {
	var resp taskapi.PidsResponse
	err = m.call(ctx, ns, id, "Pids", &taskapi.PidsRequest{ID: id}, &resp)
	for _, p := range resp.Processes {
		list = append(list, Process{Pid: p.Pid, Info: p.Info})
	}
	return list, err
}

// Checkpoint dumps a task into the directory path. The duration is up to the
// caller: it grows with the memory of the task.
func (m *Manager) Checkpoint(ctx context.Context, ns ident.Namespace, id, path string, options *anypb.Any) error {
	s, err := m.shims.Get(ns, id)
	if err != nil {
		return err
	}
	return s.task(ctx, "Checkpoint", 0, &taskapi.CheckpointTaskRequest{ID: id, Path: path, Options: options}, nothing())
}

// Update changes the resources of a task.
func (m *Manager) Update(ctx context.Context, ns ident.Namespace, id string, resources *anypb.Any, annotations map[string]string) error {
	return m.call(ctx, ns, id, "Update", &taskapi.UpdateTaskRequest{ID: id, Resources: resources, Annotations: annotations}, nothing())
}

// Stats returns the counters of a task.
func (m *Manager) Stats(ctx context.Context, ns ident.Namespace, id string) (*anypb.Any, error) {
	s, err := m.shims.Get(ns, id)
	if err != nil {
		return nil, err
	}
	var resp taskapi.StatsResponse
	err = s.task(ctx, "Stats", m.cfg.Timeouts.Stats, &taskapi.StatsRequest{ID: id}, &resp)
	return resp.Stats, err
}

// Wait returns when a process has exited. If its shim dies, all of the task
// has ended as soon as its remains are gone.
func (m *Manager) Wait(ctx context.Context, ns ident.Namespace, id, exec string) (Exit, error) {
	s, err := m.shims.Get(ns, id)
	if err != nil {
		return Exit{}, err
	}
	var resp taskapi.WaitResponse
	err = s.task(ctx, "Wait", 0, &taskapi.WaitRequest{ID: id, ExecID: exec}, &resp)
	if errors.Is(err, errGone) {
		return m.shims.AwaitBurial(ctx, s)
	}
	return Exit{Status: resp.ExitStatus, At: timeOf(resp.ExitedAt)}, err
}

// RuntimeInfo asks the shim of a runtime what it is.
func (m *Manager) RuntimeInfo(ctx context.Context, runtime string, options *anypb.Any) (*types.RuntimeInfo, error) {
	if runtime == "" {
		runtime = m.cfg.DefaultRuntime
	}
	bin, err := m.shims.find.binary(runtime, "")
	if err != nil {
		return nil, fmt.Errorf("failed to resolve runtime path: %w", err)
	}
	return m.shims.info(ctx, bin, options)
}
