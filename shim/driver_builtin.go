// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/mount"
	"slipway/internal/plainjson"
	"slipway/linux"
	"slipway/runtime"
	"slipway/runtime/criu"
	runtimefeatures "slipway/runtime/features"
)

// builtin runs a container in this process, by package runtime. It is the
// driver of containers that name no other runtime.
type builtin struct {
	id, bundle string
	root       string // the namespace's directory of states
	options    Options
	reaper     *reaper

	mu        sync.Mutex
	container *runtime.Container // nil until it is made or found
}

func newBuiltin(ns, id, bundle string, o Options, r *reaper) *builtin {
	return &builtin{id: id, bundle: bundle, root: stateRoot(ns, o), options: o, reaper: r}
}

func (d *builtin) Create(ctx context.Context, rootfs []mount.Mount, io Stdio) (_ Started, err error) {
	config, err := d.config(io)
	if err != nil {
		return Started{}, err
	}
	target := filepath.Join(d.bundle, "rootfs")
	config.Rootfs, err = giveRootfs(rootfs, target, seesRootfs(config.Spec))
	if err != nil {
		return Started{}, fmt.Errorf("rootfs of container %s: %w", d.id, err)
	}
	c, err := runtime.Create(ctx, config)
	kept := config.Rootfs == nil && len(rootfs) > 0
	if kept && (err != nil || !seesRootfs(config.Spec)) { // the container has its own
		err = errors.Join(err, mount.UnmountRecursive(target))
	}
	if err != nil {
		config.Rootfs.Close()
		return Started{}, fmt.Errorf("OCI runtime create failed: runc create failed: %w", err)
	}
	return d.created(c)
}

// created takes over a container that was made.
func (d *builtin) created(c *runtime.Container) (s Started, err error) {
	d.mu.Lock()
	d.container = c
	d.mu.Unlock()
	return started(c.Init())
}

func started(p *runtime.Process) (s Started, err error) {
	s.Pid = p.Pid
	if p.Console != nil {
		s.Console, err = pollable(p.Console)
	}
	return s, err
}

// pollable is f in a form whose reads can be cut off. It closes f.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "console"), nil
}

// config is what package runtime is told of the bundle.
func (d *builtin) config(io Stdio) (runtime.Config, error) {
	spec := &specs.Spec{}
	data, err := os.ReadFile(filepath.Join(d.bundle, "config.json"))
	if err == nil {
		err = plainjson.Unmarshal(data, spec)
	}
	if err != nil {
		return runtime.Config{}, fmt.Errorf("bundle %s: config.json: %w", d.bundle, err)
	}
	if spec.Process != nil && spec.Process.Terminal != io.Terminal {
		return runtime.Config{}, fmt.Errorf("container %s: its process and the request differ on a terminal: %w", d.id, errdefs.ErrInvalidArgument)
	}
	config := runtime.Config{
		Root: d.root, ID: d.id, Bundle: d.bundle, Spec: spec, PidFile: filepath.Join(d.bundle, "init.pid"),
		SystemdCgroup: d.options.SystemdCgroup, NoPivot: d.options.NoPivotRoot, NoNewKeyring: d.options.NoNewKeyring,
		Wait: d.reaper.wait,
	}
	if !io.Terminal {
		config.Stdin, config.Stdout, config.Stderr = io.In, io.Out, io.Err
	}
	return config, nil
}

func (d *builtin) Restore(ctx context.Context, image string, rootfs []mount.Mount, io Stdio) (_ Started, err error) {
	config, err := d.config(io)
	if err != nil {
		return Started{}, err
	}
	target := filepath.Join(d.bundle, "rootfs")
	if err := mountRootfs(rootfs, target); err != nil {
		return Started{}, fmt.Errorf("rootfs of container %s: %w", d.id, err)
	}
	work := d.options.CriuWorkPath
	if work == "" {
		work = filepath.Join(d.bundle, "work")
	}
	if err := os.MkdirAll(work, 0o711); err != nil {
		return Started{}, err
	}
	var ours *os.File
	if io.Terminal {
		if ours, config.ConsoleSocket, err = linux.SocketPair("console"); err != nil {
			return Started{}, err
		}
		defer ours.Close()
		defer config.ConsoleSocket.Close()
	}
	c, err := runtime.Restore(ctx, config, criu.Options{
		Images: image, Work: work, EmptyNamespaces: unix.CLONE_NEWNET, ConfigFile: config.Spec.Annotations["org.criu.config"],
	})
	if len(rootfs) > 0 && (err != nil || !seesRootfs(config.Spec)) {
		err = errors.Join(err, mount.UnmountRecursive(target))
	}
	if err != nil {
		return Started{}, fmt.Errorf("OCI runtime restore failed: %w", err)
	}
	s, err := d.created(c)
	if err == nil && ours != nil {
		s.Console, err = receiveConsole(ours)
	}
	return s, err
}

// receiveConsole takes the terminal that was sent before.
func receiveConsole(socket *os.File) (*os.File, error) {
	_, files, err := linux.Receive(socket, make([]byte, 4096))
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("console of the container: %d descriptors were sent: %w", len(files), err)
	}
	return pollable(files[0])
}

// load finds the container, which an earlier process may have made.
func (d *builtin) load() (*runtime.Container, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.container != nil {
		return d.container, nil
	}
	c, err := runtime.Load(d.root, d.id)
	if err != nil {
		return nil, err
	}
	d.container = c
	return c, nil
}

func (d *builtin) Start(ctx context.Context) error {
	c, err := d.load()
	if err != nil {
		return err
	}
	d.reaper.hold() // for hooks
	defer d.reaper.release()
	if err := c.Start(ctx); err != nil {
		return fmt.Errorf("OCI runtime start failed: %w", err)
	}
	return nil
}

func (d *builtin) Exec(ctx context.Context, id string, process []byte, io Stdio) (Started, error) {
	c, err := d.load()
	if err != nil {
		return Started{}, err
	}
	config := runtime.ProcessConfig{Spec: &specs.Process{}}
	if err := plainjson.Unmarshal(process, config.Spec); err != nil {
		return Started{}, fmt.Errorf("process %s: spec: %w: %w", id, err, errdefs.ErrInvalidArgument)
	}
	if !io.Terminal {
		config.Stdin, config.Stdout, config.Stderr = io.In, io.Out, io.Err
	}
	p, err := c.Exec(ctx, config)
	if err != nil {
		return Started{}, fmt.Errorf("OCI runtime exec failed: %w", err)
	}
	return started(p)
}

func (d *builtin) Kill(ctx context.Context, signal uint32, all bool) error {
	c, err := d.load()
	if err == nil {
		err = c.Kill(ctx, syscall.Signal(signal), all)
	}
	if errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return err
}

func (d *builtin) Delete(ctx context.Context, force bool) error {
	c, err := d.load()
	switch {
	case errors.Is(err, errdefs.ErrNotFound) && force:
		err = d.discard(ctx)
	case errors.Is(err, errdefs.ErrNotFound):
		err = nil
	case err == nil:
		d.reaper.hold() // for hooks
		defer d.reaper.release()
		err = c.Delete(ctx, force)
	}
	if err != nil {
		return fmt.Errorf("OCI runtime delete failed: %w", err)
	}
	return mount.UnmountRecursive(filepath.Join(d.bundle, "rootfs"))
}

// discard removes what a create left that was killed before it had a record.
// A process that it forked may hold the directory until it sees that.
func (d *builtin) discard(ctx context.Context) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := runtime.Discard(d.root, d.id)
		if !errors.Is(err, errdefs.ErrFailedPrecondition) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

func (d *builtin) Pause(ctx context.Context) error {
	c, err := d.load()
	if err != nil {
		return err
	}
	return c.Pause(ctx)
}

func (d *builtin) Resume(ctx context.Context) error {
	c, err := d.load()
	if err != nil {
		return err
	}
	return c.Resume(ctx)
}

func (d *builtin) Update(ctx context.Context, resources []byte) error {
	c, err := d.load()
	if err != nil {
		return err
	}
	r := &specs.LinuxResources{}
	if err := json.Unmarshal(resources, r); err != nil {
		return fmt.Errorf("resources of container %s: %w: %w", d.id, err, errdefs.ErrInvalidArgument)
	}
	return c.Update(ctx, r)
}

func (d *builtin) Pids(context.Context) ([]int, error) {
	c, err := d.load()
	if err != nil {
		return nil, err
	}
	return c.Pids()
}

func (d *builtin) Checkpoint(ctx context.Context, k Checkpoint) error {
	c, err := d.load()
	if err != nil {
		return err
	}
	for _, ns := range k.EmptyNamespaces {
		if ns != string(specs.NetworkNamespace) {
			return fmt.Errorf("checkpoint of container %s: empty namespace %q: %w", d.id, ns, errdefs.ErrNotImplemented)
		}
	}
	s, err := c.Spec()
	if err != nil {
		return err
	}
	d.reaper.hold() // for CRIU
	defer d.reaper.release()
	return c.Checkpoint(ctx, criu.Options{
		Images: k.Image, Work: k.Work, LeaveRunning: k.LeaveRunning, TCPEstablished: k.OpenTCP,
		ExternalUnix: k.ExternalUnixSockets, ShellJob: k.Terminal, FileLocks: k.FileLocks,
		ManageCgroups: k.CgroupsMode, EmptyNamespaces: unix.CLONE_NEWNET, ConfigFile: s.Annotations["org.criu.config"],
	}, false)
}

// builtinFeatures is the JSON of what the driver can do.
func builtinFeatures() ([]byte, error) { return json.Marshal(runtimefeatures.Runtime()) }
