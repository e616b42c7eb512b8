// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A process is the init of a container, whose exec id is empty, or one that
// was added to it. All but the first four fields are guarded by the
// container's mutex.
type process struct {
	execID string
	uris   stdioURIs
	spec   []byte        // OCI process in JSON, of an exec
	done   chan struct{} // closed when the exit is published

	state   state
	pid     int
	streams *streams
	noInput bool  // stdin ends as soon as the process has it
	ended   *exit // set when reaped
	exit    exit  // valid when stopped
}

func newProcess(execID string, uris stdioURIs, spec []byte) *process {
	return &process{execID: execID, uris: uris, spec: spec, state: created, done: make(chan struct{})}
}

// launch opens the streams of p and has run start it. The exit of the process
// is reported to exited, maybe before launch returns.
func (c *container) launch(ctx context.Context, p *process, run func(Stdio) (Started, error)) (err error) {
	logger := loggerConfig{ns: c.ns, id: c.id, reaper: c.reaper}
	s, err := openStreams(ctx, logger, p.uris, c.options)
	if err != nil {
		return err
	}
	c.reaper.hold()
	defer c.reaper.release()
	started, err := run(s.give)
	if err != nil {
		s.given()
		s.close()
		return err
	}
	if started.Console != nil {
		s.attach(started.Console)
	} else {
		s.given()
	}
	c.mu.Lock()
	p.pid, p.streams = started.Pid, s
	if p.noInput {
		s.closeStdin()
	}
	c.mu.Unlock()
	c.reaper.watch(started.Pid, func(e exit) { c.exited(p, e) })
	return nil
}

// closeStdin ends the input of a process. Clients may ask for it as soon as the
// shim has read what they wrote, when the process is still being started.
func (c *container) closeStdin(execID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.find(execID)
	if err != nil {
		return err
	}
	if p.streams == nil {
		p.noInput = true
		return nil
	}
	p.streams.closeStdin()
	return nil
}

// exited records that p was reaped. It is called by the reaper.
func (c *container) exited(p *process, e exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.ended = &e
	c.settle()
}

// settle publishes the exits that may be published. It is called, with the
// mutex held, when something changed:
//   - the exit of a process that is being started waits until its start is
//     published;
//   - the exit of the init waits until those of all other processes are
//     published.
func (c *container) settle() {
	for _, p := range c.execs {
		if p.ended != nil && p.state == running {
			c.finish(p)
		}
	}
	p := c.init
	if p.ended == nil || p.state == starting || p.finished() {
		return
	}
	if c.active() == 0 {
		c.finish(p)
	} else if c.sharedPID {
		c.kills.Go(c.killAll)
	}
}

// active counts the execs whose exit is to come.
func (c *container) active() (n int) {
	for _, p := range c.execs {
		if p.state == starting || p.state == running {
			n++
		}
	}
	return n
}

// killAll ends what is left of a container whose init ended. In a PID
// namespace of its own the kernel has done so.
func (c *container) killAll() {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := c.driver.Kill(ctx, uint32(unix.SIGKILL), true); err != nil {
		c.log.Warn("kill the processes that the init left", "id", c.id, "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.execs { // in case the runtime does not know them
		if p.state == running && p.ended == nil {
			unix.Kill(p.pid, unix.SIGKILL)
		}
	}
}

// finished reports whether the exit of p is published.
func (p *process) finished() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// finish makes the exit of p known. The mutex is held.
func (c *container) finish(p *process) {
	if p.exit = *p.ended; p.state != deleting {
		p.state = stopped
	}
	p.streams.exited()
	id := p.execID
	if id == "" {
		id = c.id
	}
	c.publish("exit", taskExit{ContainerID: c.id, ID: id, Pid: uint32(p.pid), ExitStatus: uint32(p.exit.status), ExitedAt: p.exit.at})
	close(p.done)
}

// find returns a process by its exec id. The mutex is held.
func (c *container) find(execID string) (*process, error) {
	if execID == "" {
		return c.init, nil
	}
	p, ok := c.execs[execID]
	if !ok {
		return nil, fmt.Errorf("process %s of container %s: %w", execID, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}
