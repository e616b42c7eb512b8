// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/runtime/cgroup"
	"slipway/runtime/protocol"
	"slipway/runtime/rdt"
)

// Exec starts a process beside the init, in all of its namespaces and groups.
func (c *Container) Exec(ctx context.Context, config ProcessConfig) (_ *Process, err error) {
	if config.Spec == nil {
		return nil, invalid("process property must not be empty")
	}
	if err := checkProcess(config.Spec); err != nil {
		return nil, err
	}
	status, err := c.Status()
	if err != nil {
		return nil, err
	}
	switch {
	case status == Stopped || status == Creating:
		return nil, fmt.Errorf("cannot exec in a stopped container: %w", errdefs.ErrFailedPrecondition)
	case status == Paused && !config.IgnorePaused:
		return nil, fmt.Errorf("cannot exec in a paused container (use --ignore-paused to override): %w", errdefs.ErrFailedPrecondition)
	}
	group, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	x := &execution{ProcessConfig: config, c: c, cgroup: group}
	if err := x.fill(); err != nil {
		x.launch.close()
		return nil, err
	}
	p, err := x.launch.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("exec failed: unable to start container process: %w", err)
	}
	if err := announce(p.Pid, config.PidFile, config.PidfdSocket); err != nil {
		unix.Kill(p.Pid, unix.SIGKILL)
		unix.Wait4(p.Pid, nil, 0, nil)
		if p.Console != nil {
			p.Console.Close()
		}
		return nil, err
	}
	return p, nil
}

// execution is an Exec in progress.
type execution struct {
	ProcessConfig
	c      *Container
	cgroup *cgroup.Manager
	launch launch
}

func (x *execution) fill() error {
	l := &x.launch
	l.spec, l.stdio, l.console, l.lent = x.Spec, [3]*os.File{x.Stdin, x.Stdout, x.Stderr}, x.ConsoleSocket, x.ExtraFiles
	l.state, l.log = x.state, x.Log
	joins, err := x.namespaces()
	if err != nil {
		return err
	}
	l.fork.OwnMemory = true
	if x.byItself() {
		if err := l.joinCgroup(x.cgroup); err != nil {
			return err
		}
	} else {
		l.fork.Ready = x.ready
	}
	l.prepared = func(pid int) error { return limit(pid, x.Spec) }
	if err := l.namespaces(joins, 0, ""); err != nil {
		return err
	}
	process := *x.Spec
	l.init = protocol.Init{ID: x.c.id, Join: true, NoNewKeyring: x.c.record.Config.NoNewKeyring, Spec: &protocol.Spec{Process: &process, Linux: &protocol.Linux{}}}
	l.init.PlainOutput = x.PlainOutput
	return x.inherit(&process)
}

// inherit fills in what a process has of its container: the filter, and
// capabilities unless it says which.
func (x *execution) inherit(p *specs.Process) error {
	s, err := x.c.Spec()
	if os.IsNotExist(err) { // the bundle may be gone
		s, err = &specs.Spec{}, nil
	}
	if err != nil {
		return err
	}
	if p.Capabilities == nil {
		caps := x.c.record.Config.Capabilities
		p.Capabilities = &specs.LinuxCapabilities{
			Bounding: caps["Bounding"], Effective: caps["Effective"], Inheritable: caps["Inheritable"],
			Permitted: caps["Permitted"], Ambient: caps["Ambient"],
		}
	}
	warnOfCapabilities(x.Log, s, p)
	if s.Linux == nil {
		return nil
	}
	x.launch.init.Spec.Linux.Personality, x.launch.init.Spec.Linux.MemoryPolicy = s.Linux.Personality, s.Linux.MemoryPolicy
	return x.launch.setSeccomp(s.Linux.Seccomp)
}

func (x *execution) state(pid int) *specs.State {
	state := x.c.specState(x.c.record.Pid)
	state.Status = specs.StateRunning
	return state
}

// namespaces opens those of the init that are not this process's own.
func (x *execution) namespaces() (joins []joined, err error) {
	for _, k := range kinds {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", x.c.record.Pid, k.file))
		if os.IsNotExist(err) && k.flag == unix.CLONE_NEWTIME {
			continue // before Linux 5.6
		}
		if err != nil {
			return nil, err
		}
		x.launch.owns = append(x.launch.owns, f)
		if !ownNamespace(f, k.file) {
			joins = append(joins, joined{f, k.flag})
			continue
		}
		if k.flag == unix.CLONE_NEWNS {
			root, err := os.Open(fmt.Sprintf("/proc/%d/root", x.c.record.Pid))
			if err != nil {
				return nil, err
			}
			x.launch.add(protocol.FileRoot, root)
		}
	}
	if !x.c.alive() { // checked after the opens: they are the init's
		return nil, fmt.Errorf("cannot exec in a stopped container: %w", errdefs.ErrFailedPrecondition)
	}
	return joins, nil
}

func ownNamespace(f *os.File, kind string) bool {
	theirs, err := f.Stat()
	own, err2 := os.Stat("/proc/self/ns/" + kind)
	return err == nil && err2 == nil && os.SameFile(theirs, own)
}

// byItself says whether the process can join the groups without help. A group
// of version 2 whose controllers are given to groups below takes no process.
func (x *execution) byItself() bool {
	if x.c.record.Rootless || len(x.Cgroups) > 0 || x.Spec.ExecCPUAffinity != nil || x.c.record.IntelRdtPath != "" {
		return false
	}
	if !x.cgroup.V2() {
		return true
	}
	given, err := os.ReadFile(filepath.Join(x.cgroup.Path(""), "cgroup.subtree_control"))
	return err == nil && len(bytes.TrimSpace(given)) == 0
}

func (x *execution) joinGroups(pid int) error {
	if len(x.Cgroups) > 0 {
		return x.cgroup.JoinSub(pid, x.Cgroups)
	}
	return x.cgroup.Join(pid, x.c.record.Pid)
}

// ready runs while the process stands between fork and exec.
func (x *execution) ready(pid int) error {
	affinity := x.Spec.ExecCPUAffinity
	if affinity != nil && affinity.Initial != "" {
		if err := setAffinity(pid, affinity.Initial); err != nil {
			return err
		}
		x.launch.debug(fmt.Sprintf("nsexec[%d]: affinity: %#x", pid, affinityMask(pid)))
	}
	if err := x.joinGroups(pid); err != nil {
		return fmt.Errorf("error adding pid %d to cgroups: %w", pid, err)
	}
	if err := rdt.Load(x.c.record.IntelRdtPath, x.c.id).Join(pid); err != nil {
		return err
	}
	if affinity != nil && affinity.Final != "" {
		return setAffinity(pid, affinity.Final)
	}
	return nil
}
