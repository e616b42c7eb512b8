// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/client"
	"slipway/oci"
)

func taskCommands() []command {
	return []command{
		{use: "attach CONTAINER", short: "Connect to the streams of a running container", declare: attachTask, names: taskIDs},
		{use: "checkpoint CONTAINER", short: "Write the state of a container's processes", declare: checkpointTask, names: taskIDs},
		{use: "delete CONTAINER...", aliases: []string{"del", "remove", "rm"}, short: "Delete tasks", declare: deleteTasks, names: taskIDs},
		{use: "exec CONTAINER COMMAND [ARG...]", short: "Run another process in a container", line: true, declare: exec, names: taskIDs},
		{use: "list", aliases: []string{"ls"}, short: "List tasks", declare: listTasks},
		{use: "kill CONTAINER", short: "Send a signal to a container", declare: killTask, names: taskIDs},
		{use: "metrics CONTAINER", aliases: []string{"metric"}, short: "Print what a container uses", declare: taskMetrics, names: taskIDs},
		{use: "pause CONTAINER", short: "Stop all processes of a container where they are", declare: onTask((*client.Task).Pause), names: taskIDs},
		{use: "ps CONTAINER", short: "List the processes of a container", declare: taskProcesses, names: taskIDs},
		{use: "resume CONTAINER", short: "Let a paused container go on", declare: onTask((*client.Task).Resume), names: taskIDs},
		{use: "start CONTAINER", short: "Start a container that has been created", declare: startTask, names: containerIDs},
	}
}

func taskIDs(s *session) (ids []string, err error) {
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	resp, err := c.Tasks().List(s.ctx, &tasksapi.ListTasksRequest{})
	for _, t := range resp.GetTasks() {
		ids = append(ids, t.ID)
	}
	return ids, err
}

// task finds the container id and its task.
func (s *session) task(id string) (*client.Client, *client.Task, error) {
	c, err := s.dial()
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.Container(s.ctx, id); err != nil {
		return nil, nil, err
	}
	t, err := c.LoadTask(s.ctx, id)
	return c, t, err
}

// onTask declares a command that does one thing to a task.
func onTask(act func(*client.Task, context.Context) error) func(flagSet) action {
	return func(flagSet) action {
		return func(s *session, args []string) error {
			_, t, err := s.task(arg(args, 0))
			if err != nil {
				return err
			}
			return act(t, s.ctx)
		}
	}
}

func listTasks(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the ids")
	return func(s *session, _ []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Tasks().List(s.ctx, &tasksapi.ListTasksRequest{})
		if err != nil {
			return err
		}
		if *quiet {
			for _, t := range resp.Tasks {
				fmt.Fprintln(s.out, t.ID)
			}
			return nil
		}
		w := s.table(4, 4, "TASK\tPID\tSTATUS\t")
		for _, t := range resp.Tasks {
			fmt.Fprintf(w, "%s\t%d\t%s\n", t.ID, t.Pid, t.Status)
		}
		return w.Flush()
	}
}

func startTask(f flagSet) action {
	flags := taskOf(f)
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errNoContainer
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		r, err := c.Container(s.ctx, args[0])
		if err != nil {
			return err
		}
		spec, err := client.Spec(r.Spec)
		if err != nil {
			return err
		}
		options, err := flags.options(r.Runtime.GetOptions(), spec)
		if err != nil {
			return err
		}
		tty := spec.Process != nil && spec.Process.Terminal
		return s.start(c, starting{id: r.ID, flags: flags, options: options, tty: tty})
	}
}

// execFlags are those of exec.
type execFlags struct {
	taskFlags
	id, cwd, user string
	tty           bool
}

func exec(f flagSet) action {
	e := &execFlags{}
	f.StringVar(&e.cwd, "cwd", "", "Working directory of the process")
	f.BoolVarP(&e.tty, "tty", "t", false, "Give the process a terminal")
	f.BoolVarP(&e.detach, "detach", "d", false, "Return when the process has started")
	f.StringVar(&e.id, "exec-id", "", "Name of the process in the container")
	f.StringVar(&e.fifoDir, "fifo-dir", "", "Directory of the FIFOs of standard streams")
	f.StringVar(&e.logURI, "log-uri", "", "Where the output goes: file:///path, binary:///path")
	f.StringVar(&e.user, "user", "", "User, as name or number")
	return func(s *session, args []string) error {
		switch {
		case !f.Changed("exec-id"):
			return errors.New(`Required flag "exec-id" not set`)
		case arg(args, 0) == "":
			return errNoContainer
		case e.tty && e.logURI != "":
			return errors.New("can't use log-uri with tty")
		case e.logURI != "" && e.fifoDir != "":
			return errors.New("can't use log-uri with fifo-dir")
		}
		return s.exec(e, args[0], args[1:])
	}
}

func (s *session) exec(e *execFlags, id string, args []string) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	r, t, err := s.containerAndTask(c, id)
	if err != nil {
		return err
	}
	if e.id == "" {
		return fmt.Errorf("exec id must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	spec, err := client.Spec(r.Spec)
	if err != nil {
		return err
	}
	if err := s.execSpec(c, e, r.Snapshotter, r.SnapshotKey, spec, args); err != nil {
		return err
	}
	tty, err := s.terminal(e.tty && !e.detach)
	if err != nil {
		return err
	}
	defer tty.restore()
	streams, err := s.streams(e.id, &e.taskFlags, e.tty)
	if err != nil {
		return err
	}
	spec.Process.ConsoleSize = tty.size() // it may look before attend can tell it
	p, err := t.Exec(s.ctx, e.id, spec.Process, streams)
	if err != nil {
		return err
	}
	if e.detach {
		return p.Start(s.ctx)
	}
	return s.follow(p, tty)
}

// containerAndTask asks for both at once. That there is no container is said
// first.
func (s *session) containerAndTask(c *client.Client, id string) (r *containersapi.Container, t *client.Task, err error) {
	var terr error
	var loading sync.WaitGroup
	loading.Go(func() { t, terr = c.LoadTask(s.ctx, id) })
	r, err = c.Container(s.ctx, id)
	loading.Wait()
	if err == nil {
		err = terr
	}
	return r, t, err
}

// execSpec turns the spec of a container's first process into one of another.
func (s *session) execSpec(c *client.Client, e *execFlags, snapshotter, key string, spec *specs.Spec, args []string) error {
	p := spec.Process
	p.Args, p.Terminal = args, e.tty
	if e.cwd != "" {
		p.Cwd = e.cwd
	}
	if e.user == "" {
		return nil
	}
	if key == "" {
		return oci.Apply(s.ctx, spec, oci.WithUser(e.user, spec.Root.Path))
	}
	return c.WithRootfs(s.ctx, snapshotter, key, func(root string) error {
		return oci.Apply(s.ctx, spec, oci.WithUser(e.user, root))
	})
}

// follow starts a process, stays until it ends, and deletes it.
func (s *session) follow(p *client.Process, tty *terminal) error {
	defer p.IO().Close() // even if the daemon is gone
	exit := p.Wait(context.WithoutCancel(s.ctx))
	signals := s.signals(tty)
	if err := p.Start(s.ctx); err != nil {
		ctx, cancel := s.cleanup()
		defer cancel()
		p.DeleteExited(ctx)
		return err
	}
	stop := s.attend(p, tty, signals)
	defer stop()
	status := s.ended(exit, tty)
	if status.Err != nil {
		ctx, cancel := s.cleanup()
		defer cancel()
		p.ForceDelete(ctx)
		return status.Err
	}
	p.DeleteExited(context.WithoutCancel(s.ctx)) // what it said is all that counts
	return exited(status.Status)
}

func attachTask(flagSet) action {
	return func(s *session, args []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		r, err := c.Container(s.ctx, arg(args, 0))
		if err != nil {
			return err
		}
		spec, err := client.Spec(r.Spec)
		if err != nil {
			return err
		}
		tty, err := s.terminal(spec.Process != nil && spec.Process.Terminal)
		if err != nil {
			return err
		}
		defer tty.restore()
		t, err := c.AttachTask(s.ctx, r.ID, s.in, s.out, s.err)
		if err != nil {
			return err
		}
		exit := t.Wait(context.WithoutCancel(s.ctx))
		stop := s.attend(t.Process, tty, s.signals(tty))
		defer stop()
		status := s.ended(exit, tty)
		if status.Err != nil {
			return status.Err
		}
		t.Delete(context.WithoutCancel(s.ctx))
		return exited(status.Status)
	}
}

func deleteTasks(f flagSet) action {
	force := f.BoolP("force", "f", false, "End tasks that run")
	execID := f.String("exec-id", "", "Delete this process of the container only")
	return func(s *session, args []string) error {
		if *execID != "" {
			return s.deleteExec(arg(args, 0), *execID, *force)
		}
		return s.each(args, "unable to delete %v", func(id string) error {
			c, t, err := s.task(id)
			if err != nil {
				return complaint{"failed to load task from " + id, err}
			}
			status, err := s.deleteProcess(t.Process, *force)
			if err != nil {
				return err
			}
			if status.Status != 0 {
				s.log().Warn(fmt.Sprintf("task %s exit with non-zero exit code %d", id, status.Status))
			}
			r, err := c.Container(s.ctx, id)
			if err != nil {
				return err
			}
			return s.removeNetwork(r)
		})
	}
}

func (s *session) deleteProcess(p *client.Process, force bool) (client.Exit, error) {
	if force {
		return p.ForceDelete(s.ctx)
	}
	return p.Delete(s.ctx)
}

func (s *session) deleteExec(id, execID string, force bool) error {
	_, t, err := s.task(id)
	if err != nil {
		return err
	}
	p, err := t.LoadProcess(s.ctx, execID)
	if err != nil {
		return err
	}
	status, err := s.deleteProcess(p, force)
	if err != nil {
		return err
	}
	return exited(status.Status)
}

func killTask(f flagSet) action {
	name := f.StringP("signal", "s", "", "Signal, by name or number")
	execID := f.String("exec-id", "", "Send it to this process of the container")
	all := f.BoolP("all", "a", false, "Send it to every process of the container")
	return func(s *session, args []string) error {
		id := arg(args, 0)
		switch {
		case id == "":
			return errNoContainer
		case *all && *execID != "":
			return errors.New("specify an exec-id or all; not both")
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		r, err := c.Container(s.ctx, id)
		if err != nil {
			return err
		}
		if *name == "" {
			*name = r.Labels[client.StopSignalLabel]
		}
		sig, err := parseSignal(*name)
		if err != nil {
			return err
		}
		t, err := c.LoadTask(s.ctx, id)
		if err != nil {
			return err
		}
		if err := s.removeNetwork(r); err != nil {
			return err
		}
		_, err = c.Tasks().Kill(s.ctx, &tasksapi.KillRequest{ContainerID: t.Container(), ExecID: *execID, Signal: uint32(sig), All: *all})
		return err
	}
}

// moreSignals are names besides those that package unix gives. 32 and 33 are
// the C library's.
var moreSignals = map[string]unix.Signal{
	"SIGCLD": unix.SIGCHLD, "SIGIOT": unix.SIGABRT, "SIGPOLL": unix.SIGIO, "SIGRTMIN": 34, "SIGRTMAX": 64,
}

// parseSignal reads a number, or a name with or without SIG; SIGTERM if
// there is none.
func parseSignal(name string) (unix.Signal, error) {
	if name == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(name); err == nil && n != 0 {
		return unix.Signal(n), nil
	}
	long := strings.ToUpper(name)
	if !strings.HasPrefix(long, "SIG") {
		long = "SIG" + long
	}
	if sig := cmp.Or(unix.SignalNum(long), moreSignals[long]); sig != 0 {
		return sig, nil
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(long, "SIGRTMIN+")); err == nil && n >= 0 && n <= 30 {
		return moreSignals["SIGRTMIN"] + unix.Signal(n), nil
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(long, "SIGRTMAX-")); err == nil && n >= 0 && n <= 30 {
		return moreSignals["SIGRTMAX"] - unix.Signal(n), nil
	}
	return 0, fmt.Errorf("invalid signal: %s", name)
}

func taskProcesses(flagSet) action {
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errNoContainer
		}
		_, t, err := s.task(args[0])
		if err != nil {
			return err
		}
		all, err := t.Pids(s.ctx)
		if err != nil {
			return err
		}
		w := s.table(1, 4, "PID\tINFO")
		for _, p := range all {
			detail := "-"
			if p.Info != nil {
				v, err := decode(p.Info)
				if err != nil {
					return err
				}
				detail = fmt.Sprint(v)
			}
			fmt.Fprintf(w, "%d\t%s\n", p.Pid, detail)
		}
		return w.Flush()
	}
}
