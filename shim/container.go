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
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/internal/cgstat"
	"slipway/internal/fault"
	"slipway/internal/mount"
	"slipway/internal/plainjson"
)

const (
	startTimeout  = 2 * time.Minute
	killTimeout   = 10 * time.Second
	deleteTimeout = 10 * time.Second
)

// A container is one container of a shim. The mutex guards what follows it and
// the processes; it is never held while the driver works, for which the states
// that end in -ing reserve a process.
type container struct {
	ns, id, bundle string
	options        Options
	driver         Driver
	reaper         *reaper
	events         *publisher
	log            *slog.Logger
	sharedPID      bool          // with the host or another container
	checkpoint     string        // to restore from at the start, or empty
	rootfs         []mount.Mount // for the restore

	mu     sync.Mutex
	init   *process
	execs  map[string]*process
	cgroup *cgstat.Group // nil until the init runs
	oom    *cgstat.Watch

	kills sync.WaitGroup // of what the init left
}

// bundleConfig is what the shim reads of a bundle's config.json.
type bundleConfig struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
	} `json:"linux"`
}

func readBundle(bundle string) (c bundleConfig, err error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return c, err
	}
	if err := plainjson.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("bundle %s: config.json: %w", bundle, err)
	}
	return c, nil
}

// sharedPID reports whether the processes outlive the init.
func (c bundleConfig) sharedPID() bool {
	for _, n := range c.Linux.Namespaces {
		if n.Type == "pid" {
			return n.Path != ""
		}
	}
	return true
}

// create makes the container. On failure nothing is left.
func (c *container) create(ctx context.Context, rootfs []mount.Mount) (err error) {
	config, err := readBundle(c.bundle)
	if err != nil {
		return err
	}
	c.sharedPID = config.sharedPID()
	if err := c.saveOptions(); err != nil {
		return err
	}
	if c.checkpoint != "" {
		c.rootfs = rootfs
		return nil // restored at the start
	}
	err = c.launch(ctx, c.init, func(io Stdio) (Started, error) { return c.driver.Create(ctx, rootfs, io) })
	if err != nil {
		c.forceDelete(ctx)
		return err
	}
	fault.Point("shim.create.created")
	c.findCgroup()
	return nil
}

// saveOptions leaves in the bundle what `delete` must know when this process
// is gone; upstream's shim reads the same files.
func (c *container) saveOptions() error {
	data, err := json.Marshal(c.options)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "options.json"), data, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.bundle, "runtime"), []byte(c.options.BinaryName), 0o600)
}

// forceDelete undoes a create.
func (c *container) forceDelete(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	if err := c.driver.Delete(ctx, true); err != nil {
		c.log.Warn("undo a create", "id", c.id, "error", err)
	}
}

// findCgroup remembers the cgroup while the init is known to be in it.
func (c *container) findCgroup() {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, err := cgstat.Of(c.init.pid)
	if err != nil {
		c.log.Warn("find the cgroup", "id", c.id, "error", err)
		return
	}
	c.cgroup = g
}

// start runs a created process and returns its pid.
func (c *container) start(ctx context.Context, execID string) (int, error) {
	p, err := c.begin(execID, "start", starting)
	if err != nil {
		return 0, err
	}
	// A start that is cut off halfway would leave a process that nobody knows:
	// it goes on if the daemon hangs up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	err = c.drive(ctx, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.settle()
	if err != nil {
		p.state = created
		return 0, err
	}
	p.state = running
	if execID != "" {
		c.publish("exec-started", taskExecStarted{ContainerID: c.id, ExecID: execID, Pid: uint32(p.pid)})
		return p.pid, nil
	}
	c.publish("start", taskStart{ContainerID: c.id, Pid: uint32(p.pid)})
	c.watchOOM()
	return p.pid, nil
}

// drive has the driver start p.
func (c *container) drive(ctx context.Context, p *process) error {
	if p.execID != "" {
		return c.launch(ctx, p, func(io Stdio) (Started, error) { return c.driver.Exec(ctx, p.execID, p.spec, io) })
	}
	if c.checkpoint == "" {
		return c.driver.Start(ctx)
	}
	err := c.launch(ctx, p, func(io Stdio) (Started, error) { return c.driver.Restore(ctx, c.checkpoint, c.rootfs, io) })
	if err == nil {
		c.findCgroup()
	}
	return err
}

// watchOOM publishes lack of memory, where it can be known. The mutex is held.
func (c *container) watchOOM() {
	if c.cgroup == nil {
		return
	}
	w, err := c.cgroup.WatchOOM(func() { c.publish("oom", containerEvent{c.id}) })
	if err != nil {
		c.log.Debug("start", "id", c.id, "error", err)
	}
	c.oom = w
}

// begin checks that op is allowed and reserves the process with a state.
func (c *container) begin(execID, op string, during state) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.find(execID)
	if err != nil {
		return nil, err
	}
	if err := p.state.check(op); err != nil {
		return nil, err
	}
	if execID != "" && op == "start" && (c.init.ended != nil || c.init.state.check("exec") != nil) {
		return nil, fmt.Errorf("container %s: its init is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	p.state = during
	return p, nil
}

// exec adds a process, which start runs.
func (c *container) exec(execID string, uris stdioURIs, spec []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.init.state.check("exec"); err != nil {
		return err
	}
	if _, ok := c.execs[execID]; ok {
		return fmt.Errorf("id %s: %w", execID, errdefs.ErrAlreadyExists)
	}
	c.execs[execID] = newProcess(execID, uris, spec)
	c.publish("exec-added", taskExecAdded{ContainerID: c.id, ExecID: execID})
	return nil
}

// delete removes a process that is not running and returns its exit.
func (c *container) delete(ctx context.Context, execID string) (*process, error) {
	c.mu.Lock()
	p, err := c.find(execID)
	if err == nil {
		err = p.state.check("delete")
	}
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	before := p.state
	p.state = deleting
	c.mu.Unlock()
	if execID == "" {
		if err := c.deleteInit(ctx, p, before); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			if p.state = before; p.ended != nil {
				p.state = stopped
			}
			return nil, err
		}
	}
	c.mu.Lock()
	s := p.streams
	p.state = deleted
	delete(c.execs, execID)
	c.mu.Unlock()
	if s != nil {
		s.close()
	}
	if execID == "" {
		c.publish("delete", taskDelete{ContainerID: c.id, Pid: uint32(p.pid), ExitStatus: uint32(p.exit.status), ExitedAt: p.exit.at})
	}
	return p, nil
}

// deleteInit has the runtime delete the container.
func (c *container) deleteInit(ctx context.Context, p *process, before state) error {
	c.kills.Wait() // a runtime may freeze a container to kill all of it, and deletes none that is frozen
	if before == stopped || p.pid != 0 {
		// An init that never started is killed by force.
		if err := c.driver.Delete(ctx, before == created); err != nil {
			return err
		}
	}
	fault.Point("shim.delete.deleted")
	if p.pid != 0 {
		ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
		defer cancel()
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("container %s: wait for the end of its init: %w", c.id, ctx.Err())
		}
	}
	c.mu.Lock()
	oom := c.oom
	c.oom = nil
	c.mu.Unlock()
	oom.Close()
	return nil
}

// kill signals a process, or all of the container.
func (c *container) kill(ctx context.Context, execID string, signal uint32, all bool) error {
	c.mu.Lock()
	p, err := c.find(execID)
	if err == nil {
		err = p.state.check("kill")
	}
	if err == nil && (p.ended != nil || execID != "" && p.pid == 0) {
		err = fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
		if p.ended == nil {
			err = fmt.Errorf("process %s of container %s is not started: %w", execID, c.id, errdefs.ErrFailedPrecondition)
		}
	}
	if err != nil || execID == "" {
		c.mu.Unlock()
		if err != nil {
			return err
		}
		return c.driver.Kill(ctx, signal, all)
	}
	// The pid is not reused: the reaper takes the mutex before it tells of the
	// exit, but may have reaped already. ESRCH is then the answer in all but
	// the case of a pid that comes round between the two.
	defer c.mu.Unlock()
	if err := unix.Kill(p.pid, unix.Signal(signal)); err == unix.ESRCH {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	} else if err != nil {
		return fmt.Errorf("process %s of container %s: %w", execID, c.id, os.NewSyscallError("kill", err))
	}
	return nil
}

// pause freezes the container.
func (c *container) pause(ctx context.Context) error {
	p, err := c.begin("", "pause", pausing)
	if err != nil {
		return err
	}
	err = c.driver.Pause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.state != pausing { // it ended meanwhile
		return err
	}
	if p.state = running; err == nil {
		p.state = paused
		c.publish("paused", containerEvent{c.id})
	}
	return err
}

// resume thaws a paused container.
func (c *container) resume(ctx context.Context) error {
	if err := c.can("resume"); err != nil {
		return err
	}
	if err := c.driver.Resume(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init.state == paused {
		c.init.state = running
		c.publish("resumed", containerEvent{c.id})
	}
	return nil
}

// can reports why op is not allowed in the state of the init.
func (c *container) can(op string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.init.state.check(op)
}

// stop closes what a container still holds when the shim ends.
func (c *container) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oom.Close()
	c.oom = nil
}

// publish sends the event of a topic. It keeps the order of its calls.
func (c *container) publish(topic string, event any) {
	c.events.publish("/tasks/"+topic, typeURL(topic), event)
}

// typeURL is the type of the events of a topic.
func typeURL(topic string) string { return "containerd.events." + eventTypes[topic] }

// eventTypes names the events of the shim by the last part of their topics.
var eventTypes = map[string]string{
	"create":       "TaskCreate",
	"start":        "TaskStart",
	"exec-added":   "TaskExecAdded",
	"exec-started": "TaskExecStarted",
	"exit":         "TaskExit",
	"delete":       "TaskDelete",
	"oom":          "TaskOOM",
	"paused":       "TaskPaused",
	"resumed":      "TaskResumed",
	"checkpointed": "TaskCheckpointed",
}
