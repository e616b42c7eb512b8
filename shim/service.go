// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/internal/pb"
	"slipway/internal/ttrpc"
	"slipway/internal/version"
)

// A service is the task service of one shim, for one or more containers.
type service struct {
	ns       string
	events   *publisher
	reaper   *reaper
	log      *slog.Logger
	shutdown func() // ends the shim; called more than once

	mu         sync.Mutex
	containers map[string]*container
	making     map[string]bool // those of the containers that nobody may see yet
}

// methods returns what the task services of version 2 and 3 both serve.
func (s *service) methods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"State":      ttrpc.Unary(s.state),
		"Create":     ttrpc.Unary(s.create),
		"Start":      ttrpc.Unary(s.start),
		"Delete":     ttrpc.Unary(s.delete),
		"Pids":       ttrpc.Unary(s.pids),
		"Pause":      ttrpc.Unary(s.pause),
		"Resume":     ttrpc.Unary(s.resume),
		"Checkpoint": ttrpc.Unary(s.checkpoint),
		"Kill":       ttrpc.Unary(s.kill),
		"Exec":       ttrpc.Unary(s.exec),
		"ResizePty":  ttrpc.Unary(s.resizePty),
		"CloseIO":    ttrpc.Unary(s.closeIO),
		"Update":     ttrpc.Unary(s.update),
		"Wait":       ttrpc.Unary(s.wait),
		"Stats":      ttrpc.Unary(s.stats),
		"Connect":    ttrpc.Unary(s.connect),
		"Shutdown":   ttrpc.Unary(s.end),
	}
}

func (s *service) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok || s.making[id] {
		return nil, fmt.Errorf("container %s is not created: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// reserve adds a container that is yet to be made. It is not found until then:
// a daemon that was restarted meanwhile must not take it for one that stays.
func (s *service) reserve(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.containers[c.id]; ok {
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrAlreadyExists)
	}
	s.containers[c.id], s.making[c.id] = c, true
	return nil
}

// show ends a reservation.
func (s *service) show(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.making, id)
}

func (s *service) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, id)
	delete(s.making, id)
}

const optionsType = "containerd.runc.v1.Options"

// parseOptions reads the options of a runtime; there may be none.
func parseOptions(a *pb.Any) (o Options, err error) {
	if a == nil || a.TypeURL == "" {
		return o, nil
	}
	if typeName(a) != optionsType {
		return o, fmt.Errorf("options of type %s: %w", a.TypeURL, errdefs.ErrInvalidArgument)
	}
	return o, pb.Unmarshal(a.Value, &o)
}

// typeName is the name of a's message; a type URL may carry a host before it.
func typeName(a *pb.Any) string { return filepath.Base(a.TypeURL) }

func (s *service) create(ctx context.Context, r *createTaskRequest) (*pidResponse, error) {
	if err := ident.Check(r.ID); err != nil {
		return nil, err
	}
	o, err := parseOptions(r.Options)
	if err != nil {
		return nil, err
	}
	uris := stdioURIs{stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, terminal: r.Terminal}
	c := &container{
		ns: s.ns, id: r.ID, bundle: r.Bundle, options: o, checkpoint: r.Checkpoint,
		driver: newDriver(s.ns, r.ID, r.Bundle, o, s.reaper),
		reaper: s.reaper, events: s.events, log: s.log,
		init: newProcess("", uris, nil), execs: map[string]*process{},
	}
	c.init.state = starting // its exit waits for the event of the create
	if err := s.reserve(c); err != nil {
		return nil, err
	}
	if err := c.create(ctx, mount.FromProto(r.Rootfs)); err != nil {
		s.remove(r.ID)
		return nil, err
	}
	s.show(r.ID)
	c.mu.Lock()
	defer c.mu.Unlock()
	pid := uint32(c.init.pid)
	c.publish("create", taskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: pid,
		IO: &taskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	c.init.state = created
	c.settle()
	return &pidResponse{pid}, nil
}

func (s *service) start(ctx context.Context, r *processRequest) (*pidResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	pid, err := c.start(ctx, r.ExecID)
	return &pidResponse{uint32(pid)}, err
}

func (s *service) delete(ctx context.Context, r *processRequest) (*deleteResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	p, err := c.delete(ctx, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		s.remove(r.ID)
	}
	return &deleteResponse{Pid: uint32(p.pid), ExitStatus: uint32(p.exit.status), ExitedAt: p.exit.at}, nil
}

func (s *service) state(ctx context.Context, r *processRequest) (*stateResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.find(r.ExecID)
	if err != nil {
		return nil, err
	}
	st := p.state
	if st == running && (c.init.state == paused || c.init.state == pausing) {
		st = c.init.state
	}
	return &stateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: c.bundle, Pid: uint32(p.pid), Status: st.wire(),
		Stdin: p.uris.stdin, Stdout: p.uris.stdout, Stderr: p.uris.stderr, Terminal: p.uris.terminal,
		ExitStatus: uint32(p.exit.status), ExitedAt: p.exit.at,
	}, nil
}

func (s *service) wait(ctx context.Context, r *processRequest) (*waitResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	p, err := c.find(r.ExecID)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &waitResponse{ExitStatus: uint32(p.exit.status), ExitedAt: p.exit.at}, nil
}

func (s *service) kill(ctx context.Context, r *killRequest) (*empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	return &empty{}, c.kill(ctx, r.ExecID, r.Signal, r.All)
}

func (s *service) exec(ctx context.Context, r *execProcessRequest) (*empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if err := ident.Check(r.ExecID); err != nil {
		return nil, err
	}
	if r.Spec == nil {
		return nil, fmt.Errorf("process %s: it has no spec: %w", r.ExecID, errdefs.ErrInvalidArgument)
	}
	spec, err := processSpec(r.Spec.Value, r.Terminal)
	if err != nil {
		return nil, fmt.Errorf("process %s: spec: %w: %w", r.ExecID, err, errdefs.ErrInvalidArgument)
	}
	uris := stdioURIs{stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, terminal: r.Terminal}
	return &empty{}, c.exec(r.ExecID, uris, spec)
}

// processSpec returns the JSON of an OCI process with its terminal set as the
// request says. Fields that this program does not know are kept.
func processSpec(data []byte, terminal bool) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, fmt.Errorf("it is null")
	}
	fields["terminal"] = json.RawMessage(fmt.Sprint(terminal))
	return json.Marshal(fields)
}

func (s *service) resizePty(ctx context.Context, r *resizePtyRequest) (*empty, error) {
	p, err := s.started(r.ID, r.ExecID)
	if err != nil || p == nil || p.console == nil {
		return &empty{}, err
	}
	return &empty{}, resize(p.console, r.Width, r.Height)
}

func (s *service) closeIO(ctx context.Context, r *closeIORequest) (*empty, error) {
	c, err := s.container(r.ID)
	if err == nil && r.Stdin {
		err = c.closeStdin(r.ExecID)
	}
	return &empty{}, err
}

// started returns the streams of a process, nil if it was not started.
func (s *service) started(id, execID string) (*streams, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.find(execID)
	if err != nil {
		return nil, err
	}
	return p.streams, nil
}

func (s *service) pids(ctx context.Context, r *processRequest) (*pidsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	pids, err := c.driver.Pids(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	resp := &pidsResponse{}
	for _, pid := range pids {
		info := &processInfo{Pid: uint32(pid)}
		for _, p := range c.execs {
			if p.pid == pid {
				info.Info = &pb.Any{TypeURL: "containerd.runc.v1.ProcessDetails", Value: pb.Marshal(processDetails{p.execID})}
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

func (s *service) pause(ctx context.Context, r *processRequest) (*empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	return &empty{}, c.pause(ctx)
}

func (s *service) resume(ctx context.Context, r *processRequest) (*empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	return &empty{}, c.resume(ctx)
}

func (s *service) update(ctx context.Context, r *updateTaskRequest) (*empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if r.Resources == nil {
		return nil, fmt.Errorf("container %s: there are no resources: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	if err := c.can("update"); err != nil {
		return nil, err
	}
	return &empty{}, c.driver.Update(ctx, r.Resources.Value)
}

func (s *service) checkpoint(ctx context.Context, r *checkpointTaskRequest) (*empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	var o checkpointOptions
	if r.Options != nil {
		if err := pb.Unmarshal(r.Options.Value, &o); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	if err := c.can("checkpoint"); err != nil {
		return nil, err
	}
	err = c.driver.Checkpoint(ctx, Checkpoint{
		Image: r.Path, Work: o.WorkPath, LeaveRunning: !o.Exit,
		OpenTCP: o.OpenTCP, ExternalUnixSockets: o.ExternalUnixSockets, Terminal: o.Terminal,
		FileLocks: o.FileLocks, EmptyNamespaces: o.EmptyNamespaces, CgroupsMode: o.CgroupsMode,
	})
	if err != nil {
		return nil, err
	}
	c.publish("checkpointed", taskCheckpointed{ContainerID: c.id, Checkpoint: r.Path})
	return &empty{}, nil
}

func (s *service) stats(ctx context.Context, r *processRequest) (*statsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	g := c.cgroup
	c.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("container %s: it has no cgroup: %w", r.ID, errdefs.ErrNotFound)
	}
	return &statsResponse{g.Metrics()}, nil
}

// connect answers for a container that does not exist too: the daemon asks
// before it creates one in a sandbox.
func (s *service) connect(ctx context.Context, r *processRequest) (*connectResponse, error) {
	resp := &connectResponse{ShimPid: uint32(os.Getpid()), Version: version.Version}
	if c, err := s.container(r.ID); err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		resp.TaskPid = uint32(c.init.pid)
	}
	return resp, nil
}

// end is Shutdown. It is ignored while there are containers, so that the
// daemon may call it after each delete of a group.
func (s *service) end(ctx context.Context, r *shutdownRequest) (*empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.containers) == 0 || r.Now {
		s.shutdown()
	}
	return &empty{}, nil
}
