// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/plainjson"
	"slipway/linux"
	"slipway/runtime/cgroup"
	"slipway/runtime/hook"
	"slipway/runtime/rdt"
)

// Container is a container that has a state directory.
type Container struct {
	root, id, dir string
	record        record
	init          *Process // after Create
	wait          hook.Waiter
	group         func() (*cgroup.Manager, error)
}

// State is what the runtime spec's state operation reports, and what `runc
// state` and `runc list` print of it.
type State struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      Status            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

// Load finds the container id under root.
func Load(root, id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &Container{root: root, id: id, dir: filepath.Join(root, id)}
	var err error
	c.record, err = loadRecord(c.dir)
	c.group = sync.OnceValues(c.loadCgroup)
	return c, err
}

// Discard removes what is left of a Create that was killed before it wrote a
// record: a directory, and nothing else.
func Discard(root, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	c := &Container{root: root, id: id, dir: filepath.Join(root, id)}
	if _, err := loadRecord(c.dir); !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("container %s has a record: %w", id, errdefs.ErrFailedPrecondition)
	}
	if c.locked() {
		return fmt.Errorf("container %s is being created: %w", id, errdefs.ErrFailedPrecondition)
	}
	return os.RemoveAll(c.dir)
}

// List returns the containers under root, ordered by id. One whose state
// cannot be read is left out and named in the error.
func List(root string) (list []*Container, err error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || CheckID(e.Name()) != nil {
			continue
		}
		c, err := Load(root, e.Name())
		if err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", e.Name(), err))
			continue
		}
		list = append(list, c)
	}
	return list, errors.Join(errs...)
}

// ID is the name of c.
func (c *Container) ID() string { return c.id }

// Init is the first process of c. Its Console is set after Create only.
func (c *Container) Init() *Process {
	if c.init != nil {
		return c.init
	}
	return &Process{Pid: c.record.Pid}
}

// Cgroup is the control groups of c.
func (c *Container) Cgroup() (*cgroup.Manager, error) { return c.group() }

func (c *Container) loadCgroup() (*cgroup.Manager, error) {
	g := &c.record.Config.Cgroups
	return cgroup.Load(cgroup.Config{Path: g.cgroupsPath(), ID: c.id, Systemd: g.Systemd, Rootless: c.record.Rootless}, c.record.CgroupPaths)
}

// alive says whether the init is there and not dead; that a pid is in use
// again shows by its start time.
func (c *Container) alive() bool {
	if c.record.Pid == 0 {
		return false
	}
	state, start, err := processStat(c.record.Pid)
	return err == nil && start == c.record.StartTime && state != 'Z' && state != 'X'
}

// Status is read from the kernel each time.
func (c *Container) Status() (Status, error) {
	if !c.alive() {
		if c.record.Pid == 0 && c.locked() {
			return Creating, nil
		}
		return Stopped, nil
	}
	group, err := c.Cgroup()
	if err != nil {
		return "", err
	}
	frozen, err := group.Frozen()
	if err != nil {
		return "", err
	}
	if frozen {
		return Paused, nil
	}
	if _, err := os.Lstat(filepath.Join(c.dir, fifoFile)); err == nil {
		return Created, nil
	}
	return Running, nil
}

// locked says whether a Create is at work on c.
func (c *Container) locked() bool {
	dir, err := os.Open(c.dir)
	if err != nil {
		return false
	}
	defer dir.Close()
	return unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// State says what is known of c now.
func (c *Container) State() (State, error) {
	status, err := c.Status()
	if err != nil {
		return State{}, err
	}
	r := &c.record
	s := State{
		Version: r.Config.Version, ID: c.id, Pid: r.Pid, Status: status, Bundle: r.label("bundle"),
		Rootfs: r.Config.Rootfs, Created: r.Created, Annotations: r.annotations(), Owner: owner(c.dir),
	}
	if status == Stopped {
		s.Pid = 0
	}
	return s, nil
}

// owner is the name of the user whose container it is.
func owner(dir string) string {
	st, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	uid := strconv.Itoa(int(st.Sys().(*syscall.Stat_t).Uid))
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// specState is what hooks are told.
func (c *Container) specState(pid int) *specs.State {
	return &specs.State{
		Version: c.record.Config.Version, ID: c.id, Status: specs.StateCreating, Pid: pid,
		Bundle: c.record.label("bundle"), Annotations: c.record.annotations(),
	}
}

// Spec reads the configuration that c was created from.
func (c *Container) Spec() (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(c.record.label("bundle"), "config.json"))
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{}
	if err := plainjson.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("config.json of container %s: %w", c.id, err)
	}
	return s, nil
}

// Start lets the init execute the user's process.
func (c *Container) Start(ctx context.Context) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	switch status {
	case Created:
	case Stopped:
		return fmt.Errorf("cannot start a container that has stopped: %w", errdefs.ErrFailedPrecondition)
	case Running:
		return fmt.Errorf("cannot start an already running container: %w", errdefs.ErrFailedPrecondition)
	default:
		return fmt.Errorf("cannot start a container in the %s state: %w", status, errdefs.ErrFailedPrecondition)
	}
	if err := c.release(); err != nil {
		return err
	}
	hooks := c.record.hooks("poststart")
	if len(hooks) == 0 {
		return nil
	}
	state := c.specState(c.record.Pid)
	state.Status = specs.StateRunning
	return hook.Run(ctx, "poststart", hooks, state.Bundle, state, c.wait)
}

// release takes the byte that the init writes when it goes on. The FIFO is
// opened for writing too, so that this cannot block for ever should the init
// die: its end is seen by its process.
func (c *Container) release() error {
	name := filepath.Join(c.dir, fifoFile)
	fifo, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer fifo.Close()
	for {
		var b [1]byte
		fds := []unix.PollFd{{Fd: int32(fifo.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if n, _ := unix.Read(int(fifo.Fd()), b[:]); n == 1 {
			return os.Remove(name)
		}
		if !c.alive() {
			return errors.New("container process is already dead")
		}
	}
}

// Kill sends sig to the init, or to every process of the container if all. A
// container without a pid namespace of its own outlives its init, so there
// SIGKILL always goes to all.
func (c *Container) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	if sig == unix.SIGKILL && (all || !c.ownsPids()) {
		return c.killAll()
	}
	if all {
		group, err := c.Cgroup()
		if err != nil {
			return err
		}
		return group.Signal(sig)
	}
	if err := c.signal(sig); err != nil {
		return err
	}
	if sig != unix.SIGKILL {
		return nil
	}
	return c.wake()
}

// killAll kills what is in the groups, and the init, which a user's container
// has in no group.
func (c *Container) killAll() error {
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	if err := group.Kill(); err != nil {
		return err
	}
	if err := c.signal(unix.SIGKILL); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	return nil
}

// ownsPids says whether the end of the init ends every process of c.
func (c *Container) ownsPids() bool {
	for _, ns := range c.record.Config.Namespaces {
		if ns.Type == "NEWPID" {
			return ns.Path == ""
		}
	}
	return false
}

// wake lets a frozen container die of the signal that it was sent.
func (c *Container) wake() error {
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	if frozen, err := group.Frozen(); err != nil || !frozen {
		return err
	}
	return group.Thaw()
}

func (c *Container) signal(sig syscall.Signal) error {
	gone := fmt.Errorf("container not running: %w", errdefs.ErrNotFound)
	if c.record.Pid == 0 {
		return gone
	}
	pidfd, err := linux.PidfdOpen(c.record.Pid)
	if err == nil {
		defer pidfd.Close()
	}
	if !c.alive() { // checked after the open: the descriptor is the init's
		return gone
	}
	if err == nil {
		err = linux.PidfdSignal(pidfd, sig)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.3
		err = os.NewSyscallError("kill", unix.Kill(c.record.Pid, sig))
	}
	if errors.Is(err, unix.ESRCH) {
		return gone
	}
	return err
}

// Delete removes a stopped container; one that is not stopped is killed first
// if force.
func (c *Container) Delete(ctx context.Context, force bool) error {
	status, err := c.Status()
	if err != nil && !force {
		return err
	}
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	if status != Stopped {
		if !force {
			return fmt.Errorf("cannot delete container %s that is not stopped: %w", c.id, errdefs.ErrFailedPrecondition)
		}
		if err := c.end(ctx, group); err != nil {
			return err
		}
	}
	if pids, err := group.Pids(); err != nil || len(pids) > 0 {
		// What is left in a pid namespace that was not the container's.
		if err := group.Kill(); err != nil {
			return err
		}
	}
	if err := group.Delete(); err != nil {
		return err
	}
	if err := rdt.Load(c.record.IntelRdtPath, c.id).Delete(); err != nil {
		return err
	}
	hooks := c.record.hooks("poststop")
	if len(hooks) > 0 {
		state := c.specState(0)
		state.Status = specs.StateStopped
		err = hook.Run(ctx, "poststop", hooks, state.Bundle, state, c.wait)
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// patience is how long a killed container may take to die.
const patience = 10 * time.Second

// end kills the processes of c and waits until the init is dead.
func (c *Container) end(ctx context.Context, group *cgroup.Manager) error {
	if err := c.Kill(ctx, unix.SIGKILL, false); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	if err := group.Kill(); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; c.alive(); wait = min(2*wait, 100*time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("container %s: its init %d does not die: %w", c.id, c.record.Pid, errdefs.ErrUnavailable)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Pause freezes the processes of c.
func (c *Container) Pause(ctx context.Context) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != Running && status != Created {
		return fmt.Errorf("container not running or created: %s: %w", status, errdefs.ErrFailedPrecondition)
	}
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	return group.Freeze()
}

// Resume undoes Pause.
func (c *Container) Resume(ctx context.Context) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != Paused {
		return fmt.Errorf("container not paused: %w", errdefs.ErrFailedPrecondition)
	}
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	return group.Thaw()
}

// UpdateRdt changes the schemas of c's class of service (Intel RDT) that are
// not empty.
func (c *Container) UpdateRdt(l3, bandwidth string) error {
	return rdt.Load(c.record.IntelRdtPath, c.id).Change(rdt.MountPoint, l3, bandwidth)
}

// Update sets resource limits.
func (c *Container) Update(ctx context.Context, resources *specs.LinuxResources) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status == Stopped {
		return fmt.Errorf("container not running: %w", errdefs.ErrFailedPrecondition)
	}
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	return group.Set(resources)
}

// Pids are the processes of c, in this process's pid namespace.
func (c *Container) Pids() ([]int, error) {
	group, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	return group.Pids()
}

// Stats are the use of resources by c.
func (c *Container) Stats() (*cgroup.Stats, error) {
	group, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	return group.Stats()
}
