// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/fault"
	"slipway/linux"
	"slipway/runtime/cgroup"
	"slipway/runtime/hook"
	"slipway/runtime/netdev"
	"slipway/runtime/protocol"
	"slipway/runtime/rdt"
)

// creation is a Create in progress.
type creation struct {
	Config
	ctx    context.Context
	c      *Container
	lock   *os.File // held on the state directory while creating
	cgroup *cgroup.Manager
	rdt    *rdt.Group
	launch launch
	hooked bool // hooks have run: poststop ones are due

	// rootMount is the mount that the root is in before the init makes its own
	// in a mount namespace that is shared with the host; 0 if it makes none.
	rootMount uint64
	// late are the limits that are set when the init is ready.
	late *specs.LinuxResources
}

// Create makes the container of config and leaves its init waiting for Start.
// A failed Create leaves nothing.
func Create(ctx context.Context, config Config) (_ *Container, err error) {
	if err := validate(&config); err != nil {
		return nil, err
	}
	warnOfCapabilities(config.Log, config.Spec, config.Spec.Process)
	n := &creation{Config: config, ctx: ctx}
	if findNamespace(n.Spec, specs.MountNamespace) == nil && len(n.Spec.Mounts) > 0 {
		n.rootMount, _ = linux.MountID(rootfsPath(&config)) // before Linux 5.8 mounts of a failed Create stay
	}
	if err := n.claim(); err != nil {
		return nil, err
	}
	defer n.lock.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, n.undo())
		}
	}()
	fault.Point("runtime.create.claimed")
	if err := n.prepare(); err != nil {
		return nil, err
	}
	p, err := n.launch.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("unable to start container process: %w", err)
	}
	n.c.init = p
	fault.Point("runtime.create.ready")
	if n.late != nil {
		if err := n.cgroup.Set(n.late); err != nil {
			return nil, err
		}
	}
	if err := announce(p.Pid, n.PidFile, n.PidfdSocket); err != nil {
		return nil, err
	}
	return n.c, nil
}

// claim makes the state directory, which makes the id the caller's.
func (n *creation) claim() error {
	if err := os.MkdirAll(n.Root, 0o700); err != nil {
		return err
	}
	dir := filepath.Join(n.Root, n.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("container with given ID already exists: %w", errdefs.ErrAlreadyExists)
		}
		return err
	}
	lock, err := linux.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	n.lock = lock
	n.c = &Container{root: n.Root, id: n.ID, dir: dir, record: newRecord(&n.Config), wait: n.Wait}
	n.c.group = func() (*cgroup.Manager, error) { return n.cgroup, nil }
	return nil
}

// findGroups says where the control groups will be. Those that other processes
// are in are no container's of its own: it would freeze, limit and kill them.
func (n *creation) findGroups() (err error) {
	n.cgroup, err = cgroup.New(cgroup.Config{
		Path: n.Spec.Linux.CgroupsPath, ID: n.ID, Systemd: n.SystemdCgroup, Rootless: n.Rootless,
		Properties: unitProperties(n.Spec.Annotations),
	})
	if err != nil {
		return err
	}
	n.c.record.CgroupPaths = n.cgroup.Paths()
	if !n.cgroup.Exists() {
		return nil
	}
	if err := unused(n.cgroup); err != nil {
		n.cgroup = nil // not ours to undo
		return err
	}
	return nil
}

// unused refuses groups that hold processes, or would hold up the first one.
func unused(g *cgroup.Manager) error {
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found: %w", len(pids), errdefs.ErrFailedPrecondition)
	}
	frozen, err := g.Frozen()
	if err == nil && frozen {
		err = fmt.Errorf("container's cgroup unexpectedly frozen: %w", errdefs.ErrFailedPrecondition)
	}
	return err
}

// prepare makes everything that the init needs. The record is written before
// the first thing that outlives this process, so that Delete finds it.
func (n *creation) prepare() (err error) {
	if err := n.findGroups(); err != nil {
		return err
	}
	if n.rdt, err = rdt.Create(rdt.MountPoint, n.ID, n.Spec.Linux.IntelRdt); err != nil {
		return err
	}
	n.c.record.IntelRdtPath = n.rdt.Dir
	if err := n.c.record.save(n.c.dir); err != nil {
		return err
	}
	fault.Point("runtime.create.recorded")
	if err := n.makeFifo(); err != nil {
		return err
	}
	if !n.cgroup.NeedsPid() {
		if err := n.cgroup.Create(0, n.early()); err != nil {
			return err
		}
	}
	fault.Point("runtime.create.cgroup")
	if err := n.offerNotify(); err != nil {
		return err
	}
	return n.fill()
}

// early are the limits that the init starts with: all but a number of tasks
// that is too small for it, which has a few threads until it executes the
// user's program.
func (n *creation) early() *specs.LinuxResources {
	const initTasks = 32
	r := n.Spec.Linux.Resources
	if r == nil || r.Pids == nil || r.Pids.Limit == nil || *r.Pids.Limit < 0 || *r.Pids.Limit >= initTasks {
		return r
	}
	most := *r
	most.Pids = nil
	n.late = &specs.LinuxResources{Pids: r.Pids}
	return &most
}

func (n *creation) makeFifo() error {
	name := filepath.Join(n.c.dir, fifoFile)
	if err := unix.Mkfifo(name, 0o622); err != nil {
		return &os.PathError{Op: "mkfifo", Path: name, Err: err}
	}
	if err := os.Chmod(name, 0o622); err != nil {
		return err
	}
	// Root of the container opens it.
	uid, gid := hostID(n.Spec.Linux.UIDMappings), hostID(n.Spec.Linux.GIDMappings)
	if os.Geteuid() == 0 && (uid != 0 || gid != 0) {
		if err := os.Chown(name, uid, gid); err != nil {
			return err
		}
	}
	f, err := linux.Open(name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	n.launch.add(protocol.FileFifo, f)
	return nil
}

// hostID is what id 0 of a user namespace is outside of it.
func hostID(ids []specs.LinuxIDMapping) int {
	for _, m := range ids {
		if m.ContainerID == 0 {
			return int(m.HostID)
		}
	}
	return 0
}

// fill describes the init's process and what it is to become.
func (n *creation) fill() error {
	l, s := &n.launch, n.Spec
	l.spec, l.stdio, l.console, l.lent = s.Process, [3]*os.File{n.Stdin, n.Stdout, n.Stderr}, n.ConsoleSocket, n.ExtraFiles
	l.log = n.Log
	l.prepared, l.hooks, l.state = n.prepared, n.runHooks, n.c.specState
	joins, made, err := l.specNamespaces(s)
	if err != nil {
		return err
	}
	frozen, err := n.cgroup.Frozen() // with the group that it is in
	if err != nil {
		return err
	}
	l.fork.OwnMemory = frozen
	if isNew(s, specs.UserNamespace) || n.Rootless || n.cgroup.NeedsPid() {
		l.fork.Ready = n.ready
	} else if err := l.joinCgroup(n.cgroup); err != nil {
		return err
	}
	if err := l.namespaces(joins, made, timeOffsets(s)); err != nil {
		return err
	}
	l.init = protocol.Init{
		ID: n.ID, Bundle: n.Bundle, Spec: protocol.NewSpec(s), Rootfs: rootfsPath(&n.Config),
		NewUser: findNamespace(s, specs.UserNamespace) != nil, NewCgroup: made&unix.CLONE_NEWCGROUP != 0,
		NoPivot: n.NoPivot, Rootless: n.Rootless, NoNewKeyring: n.NoNewKeyring, PlainOutput: n.PlainOutput,
		AskHooks:      s.Hooks != nil && len(s.Hooks.Prestart)+len(s.Hooks.CreateRuntime) > 0,
		CgroupUnified: n.cgroup.V2(),
	}
	if n.Rootfs != nil {
		l.add(protocol.FileRootfs, n.Rootfs)
	}
	if err := l.setSeccomp(s.Linux.Seccomp); err != nil {
		return err
	}
	if n.Log != nil && l.init.Seccomp != nil {
		n.Log.Debug(fmt.Sprintf("seccomp filter flags: %d", l.init.Seccomp.LoadFlags()))
	}
	return nil
}

// ready runs while the first process of the container stands between fork and
// exec, if it cannot do by itself what is done here.
func (n *creation) ready(pid int) error {
	fault.Point("runtime.create.forked")
	if isNew(n.Spec, specs.UserNamespace) {
		if err := mapUsers(pid, n.Spec.Linux.UIDMappings, n.Spec.Linux.GIDMappings); err != nil {
			return err
		}
	}
	if n.cgroup.NeedsPid() {
		return n.cgroup.Create(pid, n.early())
	}
	return n.cgroup.Join(pid, 0)
}

// prepared runs when the init is there, before it knows what it is.
func (n *creation) prepared(pid int) error {
	if err := n.c.record.started(pid); err != nil {
		return err
	}
	n.c.record.CgroupPaths = n.cgroup.Paths()
	n.launch.init.Cgroups = n.cgroup.Shown()
	if err := delegate(n.cgroup, n.Spec); err != nil {
		return err
	}
	if len(n.c.record.CgroupPaths) == 0 && !isNew(n.Spec, specs.PIDNamespace) && n.Log != nil {
		n.Log.Warn("a rootless container without a control group and a pid namespace of its own has processes that nothing can find and end. Such configuration is strongly discouraged.")
	}
	if err := n.c.record.save(n.c.dir); err != nil {
		return err
	}
	fault.Point("runtime.create.started")
	if err := limit(pid, n.Spec.Process); err != nil {
		return err
	}
	if err := n.rdt.Join(pid); err != nil {
		return err
	}
	return n.moveDevices(pid)
}

// moveDevices moves network devices of the host to the init.
func (n *creation) moveDevices(pid int) error {
	if len(n.Spec.Linux.NetDevices) == 0 {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return netdev.Move(n.Spec.Linux.NetDevices, ns)
}

// runHooks runs the hooks of the runtime's namespaces.
func (n *creation) runHooks(pid int) error {
	n.hooked = true
	fault.Point("runtime.create.hooks")
	state := n.c.specState(pid)
	if err := hook.Run(n.ctx, "prestart", n.Spec.Hooks.Prestart, n.Bundle, state, n.Wait); err != nil {
		return err
	}
	return hook.Run(n.ctx, "createRuntime", n.Spec.Hooks.CreateRuntime, n.Bundle, state, n.Wait)
}

// undo removes what a failed Create has made. The init is dead by then, but
// what hooks or it have started may live.
func (n *creation) undo() error {
	var errs []error
	if n.c.init != nil {
		unix.Kill(n.c.init.Pid, unix.SIGKILL)
		unix.Wait4(n.c.init.Pid, nil, 0, nil)
		if n.c.init.Console != nil {
			n.c.init.Console.Close()
		}
	}
	n.launch.close()
	if n.cgroup != nil && n.cgroup.Exists() {
		errs = append(errs, n.cgroup.Kill(), n.cgroup.Delete())
	}
	if n.rdt != nil {
		errs = append(errs, n.rdt.Delete())
	}
	if n.rootMount != 0 {
		errs = append(errs, n.unmountRoot())
	}
	if n.hooked {
		state := n.c.specState(0)
		state.Status = specs.StateStopped
		errs = append(errs, hook.Run(context.WithoutCancel(n.ctx), "poststop", n.Spec.Hooks.Poststop, n.Bundle, state, n.Wait))
	}
	return errors.Join(append(errs, os.RemoveAll(n.c.dir))...)
}

// unmountRoot removes what the init has mounted at the root and below.
func (n *creation) unmountRoot() error {
	root := rootfsPath(&n.Config)
	if now, err := linux.MountID(root); err != nil || now == n.rootMount {
		return err
	}
	return linux.Unmount(root, unix.MNT_DETACH)
}

// unitProperties are the annotations that name properties of systemd's unit.
func unitProperties(annotations map[string]string) map[string]string {
	const prefix = "org.systemd.property."
	m := map[string]string{}
	for k, v := range annotations {
		if len(k) > len(prefix) && k[:len(prefix)] == prefix {
			m[k[len(prefix):]] = v
		}
	}
	return m
}

// announce tells the caller's files and sockets of a process.
func announce(pid int, pidFile, pidfdSocket string) error {
	if pidfdSocket != "" {
		if err := sendPidfd(pid, pidfdSocket); err != nil {
			return fmt.Errorf("pidfd socket: %w", err)
		}
	}
	if pidFile == "" {
		return nil
	}
	temp := filepath.Join(filepath.Dir(pidFile), "."+filepath.Base(pidFile))
	if err := os.WriteFile(temp, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return err
	}
	if err := os.Rename(temp, pidFile); err != nil {
		os.Remove(temp)
		return err
	}
	return nil
}

func sendPidfd(pid int, path string) error {
	pidfd, err := linux.PidfdOpen(pid)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	socket, err := linux.Connect(path)
	if err != nil {
		return err
	}
	defer socket.Close()
	return linux.Send(socket, []byte("pidfd"), pidfd)
}
