// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
	"slipway/cni"
)

// taskFlags are the flags of commands that start a container.
type taskFlags struct {
	nullIO, detach, noPivot  bool
	logURI, fifoDir, pidFile string
}

func taskOf(f flagSet) *taskFlags {
	t := &taskFlags{}
	f.BoolVar(&t.nullIO, "null-io", false, "Send all output to /dev/null")
	f.StringVar(&t.logURI, "log-uri", "", "Where the output goes: file:///path, binary:///path")
	f.BoolVarP(&t.detach, "detach", "d", false, "Return when the container has started")
	f.StringVar(&t.fifoDir, "fifo-dir", "", "Directory of the FIFOs of standard streams")
	f.StringVar(&t.pidFile, "pid-file", "", "File for the process id")
	f.BoolVar(&t.noPivot, "no-pivot", false, "Do not use pivot_root")
	return t
}

// options are those of the shim for the task: base, which are those of the
// container, with what flags and spec add. nil is base.
func (t *taskFlags) options(base *anypb.Any, spec *specs.Spec) (*anypb.Any, error) {
	mapped := spec.Linux != nil && len(spec.Linux.UIDMappings) > 0 && len(spec.Linux.GIDMappings) > 0
	if !t.noPivot && !mapped {
		return nil, nil
	}
	o := &runcoptions.Options{}
	if base != nil {
		if err := typeurl.UnmarshalTo(base, o); err != nil {
			return nil, err
		}
	}
	o.NoPivotRoot = t.noPivot
	if mapped { // the streams belong to the container's root
		o.IoUid, o.IoGid = spec.Linux.UIDMappings[0].HostID, spec.Linux.GIDMappings[0].HostID
	}
	return typeurl.MarshalAnyToProto(o)
}

func run(f flagSet) action {
	flags, task := containerOf(f), taskOf(f)
	rm := f.Bool("rm", false, "Remove the container when it has ended, cannot be used with --detach")
	dump := f.String("dump-config", "", "File for the runtime spec")
	return func(s *session, args []string) error {
		n, err := flags.target(args)
		if err != nil {
			return err
		}
		switch {
		case *rm && task.detach:
			return errors.New("flags --detach and --rm cannot be specified together")
		case flags.tty && task.nullIO:
			return errors.New("tty and null-io cannot be used together")
		case f.Changed("dump-config") && *dump == "":
			return errors.New("file name is required with --dump-config")
		}
		ports, err := flags.ports()
		if err != nil {
			return err
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		return s.run(c, running{flags: flags, task: task, target: n, ports: ports, rm: *rm, dump: *dump})
	}
}

// running is what run is asked to do.
type running struct {
	flags  *containerFlags
	task   *taskFlags
	target target
	ports  []cni.Port
	rm     bool
	dump   string
}

func (s *session) run(c *client.Client, r running) (err error) {
	made, err := s.newContainer(c, r.flags, r.target)
	if err != nil {
		return err
	}
	if r.rm {
		defer func() {
			if rerr := s.remove(c, made); rerr != nil {
				s.log().Error("failed to cleanup container", "error", rerr)
			}
		}()
	}
	if r.dump != "" {
		data, err := json.MarshalIndent(made.Spec, "", "  ")
		if err == nil {
			err = os.WriteFile(r.dump, data, 0o666)
		}
		if err != nil {
			return err
		}
	}
	options, err := r.task.options(made.RuntimeOptions, made.Spec)
	if err != nil {
		return err
	}
	return s.start(c, starting{
		id: made.ID, made: made, flags: r.task, options: options, tty: r.flags.tty, cni: r.flags.cni, ports: r.ports,
	})
}

// starting is a container to be started.
type starting struct {
	id         string
	made       *client.MadeContainer // nil if it was there before
	flags      *taskFlags
	options    *anypb.Any
	checkpoint *ocispec.Descriptor // processes to restore, nil for new ones
	tty, cni   bool
	ports      []cni.Port // to map, with cni
}

// start makes the task of a container and, unless it is detached, stays with
// it until it ends.
func (s *session) start(c *client.Client, r starting) (err error) {
	tty, err := s.terminal(r.tty && !r.flags.detach)
	if err != nil {
		return err
	}
	defer tty.restore()
	streams, err := s.streams(r.id, r.flags, r.tty)
	if err != nil {
		return err
	}
	opts := client.TaskOpts{IO: streams, Options: r.options, PidFile: r.flags.pidFile, Made: r.made, Checkpoint: r.checkpoint}
	t, err := c.NewTask(s.ctx, r.id, opts)
	if err != nil {
		return err
	}
	if r.flags.detach {
		return s.startDetached(t, r)
	}
	defer t.IO().Close() // even if the daemon is gone
	gone := false
	defer func() {
		if !gone {
			s.abandon(t)
		}
	}()
	// The wait outlives an interrupt, which is passed to the process.
	exit := t.Wait(context.WithoutCancel(s.ctx))
	if r.cni {
		if err := s.connect(t, r.made.Spec, r.ports); err != nil {
			return err
		}
		defer s.disconnect(r.id)
	}
	signals := s.signals(tty)
	s.resize(s.ctx, t.Process, tty) // the process may look before attend can tell it
	if err := t.Start(s.ctx); err != nil {
		return err
	}
	stop := s.attend(t.Process, tty, signals)
	defer stop()
	status := s.ended(exit, tty)
	if status.Err != nil {
		return status.Err
	}
	gone = true
	if _, err := t.DeleteExited(context.WithoutCancel(s.ctx)); err != nil {
		return err
	}
	return exited(status.Status)
}

// startDetached leaves the task behind if it starts, and nothing otherwise.
func (s *session) startDetached(t *client.Task, r starting) (err error) {
	defer func() {
		if err != nil {
			s.abandon(t)
		}
	}()
	if !r.cni {
		return t.Start(s.ctx)
	}
	if err := s.connect(t, r.made.Spec, r.ports); err != nil {
		return err
	}
	if err = t.Start(s.ctx); err != nil {
		s.disconnect(r.id)
	}
	return err
}

// abandon ends a task that could not be started or followed.
func (s *session) abandon(t *client.Task) {
	ctx, cancel := s.cleanup()
	defer cancel()
	if _, err := t.ForceDelete(ctx); err != nil && !errdefs.IsNotFound(err) {
		s.log().Error("failed to cleanup task", "error", err)
	}
}

func (s *session) remove(c *client.Client, made *client.MadeContainer) error {
	ctx, cancel := s.cleanup()
	defer cancel()
	return c.Unmake(ctx, made)
}

// cleanup is a context for what is done even after an interrupt.
func (s *session) cleanup() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.ctx), 30*time.Second)
}
