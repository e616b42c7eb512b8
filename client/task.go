// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// A Process is one that the daemon runs: the first of a container, or one of
// Task.Exec. Its life is
//
//	NewTask or Exec → Start → Kill, Resize, CloseIO … → exit → Delete
type Process struct {
	c    *Client
	id   string // of the container
	exec string // empty for the first process
	pid  uint32
	io   *IO
	runs bool // has been started: a shim has opened its streams
}

// A Task is a container that runs: its first process and all others.
type Task struct{ *Process }

// Exit is how a process ended. Err is set if that is not known.
type Exit struct {
	Status uint32
	At     time.Time
	Err    error
}

// TaskOpts says how to make a task. The zero value is a task without streams.
type TaskOpts struct {
	IO          *IO // closed by Delete, and by NewTask if that fails
	Options     *anypb.Any
	RuntimePath string
	Checkpoint  *ocispec.Descriptor
	Made        *MadeContainer // of the task, if it was just made
	PidFile     string         // is written when the process is there, before it starts
}

// NewTask makes a task of the container id, whose process waits for Start.
func (c *Client) NewTask(ctx context.Context, id string, opts TaskOpts) (_ *Task, err error) {
	t := &Task{&Process{c: c, id: id, io: opts.IO}}
	if t.io == nil {
		t.io = NullIO()
	}
	defer func() {
		if err != nil {
			t.io.Close()
		}
	}()
	rootfs, err := c.taskRoot(ctx, id, opts.Made)
	if err != nil {
		return nil, err
	}
	r := &tasksapi.CreateTaskRequest{
		ContainerID: id, Rootfs: rootfs, Options: opts.Options, RuntimePath: opts.RuntimePath,
		Stdin: t.io.Stdin, Stdout: t.io.Stdout, Stderr: t.io.Stderr, Terminal: t.io.Terminal,
	}
	if opts.Checkpoint != nil {
		r.Checkpoint = DescriptorProto(*opts.Checkpoint)
	}
	resp, err := c.Tasks().Create(ctx, r)
	if err != nil {
		return nil, err
	}
	t.pid = resp.Pid
	if opts.PidFile == "" {
		return t, nil
	}
	if err := writePid(opts.PidFile, t.pid); err != nil {
		t.kill(ctx)
		return nil, err
	}
	return t, nil
}

func (c *Client) taskRoot(ctx context.Context, id string, made *MadeContainer) ([]*types.Mount, error) {
	if made != nil {
		return made.rootfs, nil
	}
	record, err := c.Container(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.rootfs(ctx, record)
}

// writePid makes file appear with its content or not at all.
func writePid(file string, pid uint32) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	defer tmp.Close()
	if _, err := tmp.WriteString(strconv.FormatUint(uint64(pid), 10)); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// LoadTask returns the task of a container, without its streams.
func (c *Client) LoadTask(ctx context.Context, id string) (*Task, error) {
	return c.AttachTask(ctx, id, nil, nil, nil)
}

// AttachTask returns the task of a container and connects to its streams. nil
// ones are left alone.
func (c *Client) AttachTask(ctx context.Context, id string, stdin io.Reader, stdout, stderr io.Writer) (*Task, error) {
	p, err := c.load(ctx, id, "", stdin, stdout, stderr)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("no running task found: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return &Task{p}, nil
}

// LoadProcess returns the process that Exec named execID, without its streams.
func (t *Task) LoadProcess(ctx context.Context, execID string) (*Process, error) {
	p, err := t.c.load(ctx, t.id, execID, nil, nil, nil)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("no running process found: %w", err)
	}
	return p, err
}

func (c *Client) load(ctx context.Context, id, exec string, stdin io.Reader, stdout, stderr io.Writer) (*Process, error) {
	resp, err := c.Tasks().Get(ctx, &tasksapi.GetRequest{ContainerID: id, ExecID: exec})
	if err != nil {
		return nil, err
	}
	p := &Process{c: c, id: id, exec: exec, pid: resp.Process.Pid, runs: resp.Process.Status != tasktypes.Status_CREATED}
	if p.io, err = OpenIO(resp.Process.Stdin, resp.Process.Stdout, resp.Process.Stderr, resp.Process.Terminal, stdin, stdout, stderr); err != nil {
		return nil, err
	}
	if p.io.fed != nil {
		go p.closeFed(ctx)
	}
	return p, nil
}

// Container is the id of the process's container.
func (p *Process) Container() string { return p.id }

// ExecID names the process within its container; empty for the first.
func (p *Process) ExecID() string { return p.exec }

// Pid is 0 before the process is there.
func (p *Process) Pid() uint32 { return p.pid }

// IO is the streams of the process.
func (p *Process) IO() *IO { return p.io }

// Start lets the process run. From then on the end of its stdin is passed on.
func (p *Process) Start(ctx context.Context) error {
	resp, err := p.c.Tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: p.id, ExecID: p.exec})
	if err != nil {
		p.io.Cancel() // the other ends may never be opened
		return err
	}
	p.pid, p.runs = resp.Pid, true
	p.io.release()
	if p.io.fed != nil {
		go p.closeFed(ctx)
	}
	return nil
}

// closeFed tells the shim of the end of stdin. The shim holds both ends of
// the FIFO, so that closing ours says nothing; and it has them from Start on.
func (p *Process) closeFed(ctx context.Context) {
	select {
	case <-p.io.fed:
	case <-p.io.ctx.Done():
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	p.CloseIO(ctx) // fails only when there is no process any more
}

// Wait returns a channel that gets the exit of the process, whether that is
// still to come or has been: the daemon keeps it until Delete. Ending ctx ends
// the wait with an error.
func (p *Process) Wait(ctx context.Context) <-chan Exit {
	exit := make(chan Exit, 1)
	go func() {
		status, err := p.exited(ctx)
		status.Err = err
		exit <- status
	}()
	return exit
}

func (p *Process) exited(ctx context.Context) (Exit, error) {
	resp, err := p.c.Tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: p.id, ExecID: p.exec})
	if err != nil {
		return Exit{Status: 255}, err
	}
	return Exit{Status: resp.ExitStatus, At: resp.ExitedAt.AsTime()}, nil
}

// Kill sends a signal to the process, or with all to every one of its
// container.
func (p *Process) Kill(ctx context.Context, signal unix.Signal, all bool) error {
	_, err := p.c.Tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: p.id, ExecID: p.exec, Signal: uint32(signal), All: all})
	return err
}

// Resize sets the size of the terminal.
func (p *Process) Resize(ctx context.Context, width, height uint32) error {
	_, err := p.c.Tasks().ResizePty(ctx, &tasksapi.ResizePtyRequest{ContainerID: p.id, ExecID: p.exec, Width: width, Height: height})
	return err
}

// CloseIO ends the stdin of the process.
func (p *Process) CloseIO(ctx context.Context) error {
	_, err := p.c.Tasks().CloseIO(ctx, &tasksapi.CloseIORequest{ContainerID: p.id, ExecID: p.exec, Stdin: true})
	return err
}

// Status describes the process as it is now.
func (p *Process) Status(ctx context.Context) (*tasktypes.Process, error) {
	resp, err := p.c.Tasks().Get(ctx, &tasksapi.GetRequest{ContainerID: p.id, ExecID: p.exec})
	if err != nil {
		return nil, err
	}
	return resp.Process, nil
}

// statusName is a status in the words of the peer's error texts.
func statusName(s tasktypes.Status) string { return strings.ToLower(s.String()) }

// Delete forgets a process that has exited, after its output is through, and
// closes its streams.
func (p *Process) Delete(ctx context.Context) (Exit, error) {
	st, err := p.Status(ctx)
	if err != nil {
		return Exit{}, err
	}
	created := st.Status == tasktypes.Status_CREATED && (p.exec != "" || st.Pid == 0)
	if !created && st.Status != tasktypes.Status_STOPPED && st.Status != tasktypes.Status_UNKNOWN {
		text := "task must be stopped before deletion: %s: %w"
		if p.exec != "" {
			text = "current process state: %s, process must be stopped before deletion: %w"
		}
		return Exit{}, fmt.Errorf(text, statusName(st.Status), errdefs.ErrFailedPrecondition)
	}
	return p.DeleteExited(ctx)
}

// DeleteExited is Delete for a process that is known not to run.
func (p *Process) DeleteExited(ctx context.Context) (Exit, error) {
	if !p.runs { // nobody has opened the streams, nor will
		p.io.Cancel()
	}
	p.io.drain(ctx)
	resp, err := p.delete(ctx)
	if err != nil {
		return Exit{}, err
	}
	p.io.drain(ctx) // the shim has let go now
	return Exit{Status: resp.ExitStatus, At: resp.ExitedAt.AsTime()}, p.io.Close()
}

func (p *Process) delete(ctx context.Context) (*tasksapi.DeleteResponse, error) {
	if p.exec != "" {
		return p.c.Tasks().DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: p.id, ExecID: p.exec})
	}
	return p.c.Tasks().Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: p.id})
}

// ForceDelete ends the process first if it runs.
func (p *Process) ForceDelete(ctx context.Context) (Exit, error) {
	err := p.Kill(ctx, unix.SIGKILL, p.exec == "")
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return Exit{}, err
	}
	if err == nil {
		if _, err := p.exited(ctx); err != nil {
			return Exit{}, err
		}
	}
	return p.Delete(ctx)
}

// kill undoes NewTask, as far as it can.
func (p *Process) kill(ctx context.Context) {
	ctx, cancel := detached(ctx)
	defer cancel()
	p.ForceDelete(ctx)
}

// Exec makes another process in the container, which waits for Start. Delete
// closes its streams, as does Exec if it fails.
func (t *Task) Exec(ctx context.Context, execID string, spec *specs.Process, streams *IO) (*Process, error) {
	if streams == nil {
		streams = NullIO()
	}
	a, err := ProcessProto(spec)
	if err == nil {
		_, err = t.c.Tasks().Exec(ctx, &tasksapi.ExecProcessRequest{
			ContainerID: t.id, ExecID: execID, Spec: a,
			Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr, Terminal: streams.Terminal,
		})
	}
	if err != nil {
		streams.Close()
		return nil, err
	}
	return &Process{c: t.c, id: t.id, exec: execID, io: streams}, nil
}

// Pids lists the processes of the container.
func (t *Task) Pids(ctx context.Context) ([]*tasktypes.ProcessInfo, error) {
	resp, err := t.c.Tasks().ListPids(ctx, &tasksapi.ListPidsRequest{ContainerID: t.id})
	if err != nil {
		return nil, err
	}
	return resp.Processes, nil
}

// Pause stops every process of the container where it is.
func (t *Task) Pause(ctx context.Context) error {
	_, err := t.c.Tasks().Pause(ctx, &tasksapi.PauseTaskRequest{ContainerID: t.id})
	return err
}

// Resume undoes Pause.
func (t *Task) Resume(ctx context.Context) error {
	_, err := t.c.Tasks().Resume(ctx, &tasksapi.ResumeTaskRequest{ContainerID: t.id})
	return err
}

// Update changes the resources of the container.
func (t *Task) Update(ctx context.Context, r *specs.LinuxResources, annotations map[string]string) error {
	a, err := jsonAny(resourcesURL, r)
	if err != nil {
		return err
	}
	_, err = t.c.Tasks().Update(ctx, &tasksapi.UpdateTaskRequest{ContainerID: t.id, Resources: a, Annotations: annotations})
	return err
}

// Checkpoint writes the state of the container's processes, by the options of
// its runtime, and returns what the daemon stored of it.
func (t *Task) Checkpoint(ctx context.Context, options *anypb.Any) ([]ocispec.Descriptor, error) {
	resp, err := t.c.Tasks().Checkpoint(ctx, &tasksapi.CheckpointTaskRequest{ContainerID: t.id, Options: options})
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, d := range resp.Descriptors {
		out = append(out, Descriptor(d))
	}
	return out, nil
}

// Metrics returns what the container uses, in a message of the runtime's.
func (t *Task) Metrics(ctx context.Context) (*types.Metric, error) {
	resp, err := t.c.Tasks().Metrics(ctx, &tasksapi.MetricsRequest{Filters: []string{"id==" + t.id}})
	if err != nil {
		return nil, err
	}
	if len(resp.Metrics) == 0 {
		return nil, fmt.Errorf("task %s: no metrics: %w", t.id, errdefs.ErrNotFound)
	}
	return resp.Metrics[0], nil
}
