// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/internal/mount"
)

// runc drives an OCI runtime that has runc's command line.
type runc struct {
	id, bundle string
	root       string // the namespace's directory of states
	options    Options
	reaper     *reaper
}

func newRunc(ns, id, bundle string, o Options, r *reaper) *runc {
	return &runc{id: id, bundle: bundle, root: stateRoot(ns, o), options: o, reaper: r}
}

func (d *runc) Create(ctx context.Context, rootfs []mount.Mount, io Stdio) (Started, error) {
	pidFile := filepath.Join(d.bundle, "init.pid")
	args := []string{"--bundle", d.bundle, "--pid-file", pidFile}
	return d.mounted(rootfs, func() (Started, error) {
		return d.launch(ctx, io, "create", pidFile, append(args, d.creating()...))
	})
}

func (d *runc) Restore(ctx context.Context, image string, rootfs []mount.Mount, io Stdio) (Started, error) {
	pidFile := filepath.Join(d.bundle, "init.pid")
	work := d.options.CriuWorkPath
	if work == "" {
		work = filepath.Join(d.bundle, "work")
	}
	args := []string{"--image-path", image, "--work-path", work, "--detach", "--no-subreaper", "--bundle", d.bundle, "--pid-file", pidFile}
	return d.mounted(rootfs, func() (Started, error) {
		return d.launch(ctx, io, "restore", pidFile, append(args, d.creating()...))
	})
}

// mounted runs an operation on the mounted root file system, which is taken
// off again if it fails.
func (d *runc) mounted(rootfs []mount.Mount, run func() (Started, error)) (_ Started, err error) {
	target := filepath.Join(d.bundle, "rootfs")
	if err := mountRootfs(rootfs, target); err != nil {
		return Started{}, fmt.Errorf("rootfs of container %s: %w", d.id, err)
	}
	defer func() {
		if err != nil && len(rootfs) > 0 {
			err = errors.Join(err, mount.UnmountRecursive(target))
		}
	}()
	return run()
}

// creating returns the flags of create and restore that options ask for.
func (d *runc) creating() (args []string) {
	if d.options.NoPivotRoot {
		args = append(args, "--no-pivot")
	}
	if d.options.NoNewKeyring {
		args = append(args, "--no-new-keyring")
	}
	return args
}

func (d *runc) Exec(ctx context.Context, id string, process []byte, io Stdio) (Started, error) {
	spec, err := os.CreateTemp(d.bundle, "."+id+"-*.json")
	if err != nil {
		return Started{}, err
	}
	defer os.Remove(spec.Name())
	defer spec.Close()
	if _, err := spec.Write(process); err != nil {
		return Started{}, err
	}
	pidFile := filepath.Join(d.bundle, id+".pid")
	defer os.Remove(pidFile)
	return d.launch(ctx, io, "exec", pidFile, []string{"--detach", "--process", spec.Name(), "--pid-file", pidFile})
}

// launch runs an operation that starts a process with io.
func (d *runc) launch(ctx context.Context, io Stdio, op, pidFile string, args []string) (_ Started, err error) {
	files := []*os.File{io.In, io.Out, io.Err}
	var console *consoleSocket
	if io.Terminal {
		if console, err = listenConsole(); err != nil {
			return Started{}, err
		}
		defer console.close()
		args = append(args, "--console-socket", console.path)
		files = make([]*os.File, 3)
	}
	if err := d.call(ctx, files, op, append(args, d.id)...); err != nil {
		return Started{}, err
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return Started{}, err
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(data)))
	if err != nil {
		return Started{}, fmt.Errorf("pid file %s: %w", pidFile, err)
	}
	started := Started{Pid: pid}
	if console != nil {
		if started.Console, err = console.receive(ctx); err != nil {
			unix.Kill(pid, unix.SIGKILL) // nobody else knows of it
			return Started{}, err
		}
	}
	return started, nil
}

func (d *runc) Start(ctx context.Context) error { return d.call(ctx, nil, "start", d.id) }

func (d *runc) Kill(ctx context.Context, signal uint32, all bool) error {
	args := []string{d.id, strconv.FormatUint(uint64(signal), 10)}
	if all {
		args = append([]string{"--all"}, args...)
	}
	err := d.call(ctx, nil, "kill", args...)
	if err == nil {
		return nil
	}
	for _, gone := range []string{"process already finished", "container not running", "does not exist", "not found"} {
		if strings.Contains(err.Error(), gone) {
			return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
		}
	}
	return err
}

func (d *runc) Delete(ctx context.Context, force bool) error {
	args := []string{d.id}
	if force {
		args = []string{"--force", d.id}
	}
	err := d.call(ctx, nil, "delete", args...)
	if err != nil && (force || !strings.Contains(err.Error(), "does not exist")) {
		return err
	}
	return mount.UnmountRecursive(filepath.Join(d.bundle, "rootfs"))
}

func (d *runc) Pause(ctx context.Context) error  { return d.call(ctx, nil, "pause", d.id) }
func (d *runc) Resume(ctx context.Context) error { return d.call(ctx, nil, "resume", d.id) }

func (d *runc) Update(ctx context.Context, resources []byte) error {
	in, err := memoryFile("resources", resources)
	if err != nil {
		return err
	}
	defer in.Close()
	return d.call(ctx, []*os.File{in, nil, nil}, "update", "--resources", "-", d.id)
}

func (d *runc) Pids(ctx context.Context) (pids []int, err error) {
	out, err := d.output(ctx, "ps", "--format", "json", d.id)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &pids); err != nil {
		return nil, fmt.Errorf("pids of container %s: %w", d.id, err)
	}
	return pids, nil
}

func (d *runc) Checkpoint(ctx context.Context, c Checkpoint) error {
	args := []string{"--image-path", c.Image}
	if c.Work != "" {
		args = append(args, "--work-path", c.Work)
	}
	for _, f := range []struct {
		set  bool
		flag string
	}{
		{c.LeaveRunning, "--leave-running"},
		{c.OpenTCP, "--tcp-established"},
		{c.ExternalUnixSockets, "--ext-unix-sk"},
		{c.Terminal, "--shell-job"},
		{c.FileLocks, "--file-locks"},
	} {
		if f.set {
			args = append(args, f.flag)
		}
	}
	for _, ns := range c.EmptyNamespaces {
		args = append(args, "--empty-ns", ns)
	}
	if c.CgroupsMode != "" {
		args = append(args, "--manage-cgroups-mode", c.CgroupsMode)
	}
	return d.call(ctx, nil, "checkpoint", append(args, d.id)...)
}

// features returns the JSON of `runc features`, which runc has since 1.1.
func (d *runc) features(ctx context.Context) ([]byte, error) { return d.output(ctx, "features") }

// output runs an operation and returns what it prints.
func (d *runc) output(ctx context.Context, op string, args ...string) ([]byte, error) {
	out, err := memoryFile("output", nil)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if err := d.call(ctx, []*os.File{nil, out, nil}, op, args...); err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(out, 0, 1<<30))
}

// call runs one operation. Its error is the last that the runtime logged.
func (d *runc) call(ctx context.Context, files []*os.File, op string, args ...string) error {
	path, err := exec.LookPath(d.options.BinaryName)
	if err != nil {
		return fmt.Errorf("OCI runtime %s: %w", op, err)
	}
	log := filepath.Join(d.bundle, "log.json")
	var before int64 // the log grows with every operation
	if info, err := os.Stat(log); err == nil {
		before = info.Size()
	}
	global := []string{"--root", d.root, "--log", log, "--log-format", "json"}
	if d.options.SystemdCgroup {
		global = append(global, "--systemd-cgroup")
	}
	if files == nil {
		files = make([]*os.File, 3)
	}
	c := command{path: path, args: append(append(global, op), args...), env: os.Environ(), files: files, bound: true}
	err = d.reaper.run(ctx, c)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("OCI runtime %s of container %s: %w", op, d.id, err)
	}
	if text := lastError(log, before); text != "" {
		return fmt.Errorf("OCI runtime %s failed: %s", op, text)
	}
	return fmt.Errorf("OCI runtime %s failed: %s: %w", op, filepath.Base(path), err)
}

// lastError returns the text of the last error in a runtime's log after an
// offset.
func lastError(log string, after int64) (text string) {
	f, err := os.Open(log)
	if err != nil {
		return ""
	}
	defer f.Close()
	f.Seek(after, io.SeekStart)
	dec := json.NewDecoder(bufio.NewReader(f))
	for {
		var line struct{ Level, Msg string }
		if err := dec.Decode(&line); err != nil {
			return text
		}
		if line.Level == "error" {
			text = line.Msg
		}
	}
}

// memoryFile returns a file without a name that holds data and is at its start.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	_, serr := f.Seek(0, io.SeekStart)
	if err := errors.Join(err, serr); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
