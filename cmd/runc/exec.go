// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/internal/plainjson"
	"slipway/runtime"
)

// An execution is what `runc exec` is asked for.
type execution struct {
	launch
	process                   string
	cwd, user, label, profile string
	env, gids, caps, cgroups  []string
	tty, noNewPrivs           bool
	noNewPrivsGiven           func() bool
	ignorePaused              bool
}

func execute(f *flags) func(*app, []string) error {
	e := &execution{}
	f.StringVar(&e.consoleSocket, "console-socket", "", "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal")
	f.StringVar(&e.pidfdSocket, "pidfd-socket", "", "path to an AF_UNIX socket which will receive a file descriptor referencing the exec process")
	f.StringVar(&e.cwd, "cwd", "", "current working directory in the container")
	f.ListVar(&e.env, "env, e", "set environment variables")
	f.BoolVar(&e.tty, "tty, t", false, "allocate a pseudo-TTY")
	f.StringVar(&e.user, "user, u", "", "UID (format: <uid>[:<gid>])")
	f.ListVar(&e.gids, "additional-gids, g", "additional gids")
	f.StringVar(&e.process, "process, p", "", "path to the process.json")
	f.BoolVar(&e.detach, "detach, d", false, "detach from the container's process")
	f.StringVar(&e.pidFile, "pid-file", "", "specify the file to write the process id to")
	f.StringVar(&e.label, "process-label", "", "set the asm process label for the process commonly used with selinux")
	f.StringVar(&e.profile, "apparmor", "", "set the apparmor profile for the process")
	f.BoolVar(&e.noNewPrivs, "no-new-privs", false, "set the no new privileges value for the process")
	f.ListVar(&e.caps, "cap, c", "add a capability to the bounding set for the process")
	f.IntVar(&e.preserve, "preserve-fds", 0, "Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)")
	f.ListVar(&e.cgroups, "cgroup", "run the process in an (existing) sub-cgroup(s). Format is [<controller>:]<cgroup>.")
	f.BoolVar(&e.ignorePaused, "ignore-paused", false, "allow exec in a paused container")
	e.noNewPrivsGiven = func() bool { return f.isSet("no-new-privs") }
	return func(a *app, args []string) error {
		status, err := e.run(a, args[0], args[1:])
		if err != nil && !strings.HasPrefix(err.Error(), "exec failed: ") {
			err = fmt.Errorf("exec failed: %w", err)
		}
		if err != nil {
			return coded{err, 255}
		}
		return end(status, nil)
	}
}

func (e *execution) run(a *app, id string, args []string) (int, error) {
	c, err := a.container(id)
	if err != nil {
		return 0, err
	}
	if err := e.allowed(c); err != nil {
		return 0, err
	}
	p, err := e.spec(c, args)
	if err != nil {
		return 0, err
	}
	config := runtime.ProcessConfig{Spec: p, IgnorePaused: e.ignorePaused, Log: a.log}
	if config.Cgroups, err = subgroups(e.cgroups); err != nil {
		return 0, err
	}
	if err := e.absolute(); err != nil {
		return 0, err
	}
	var env []string
	if config.ExtraFiles, env, err = e.files(); err != nil {
		return 0, err
	}
	p.Env = append(p.Env, env...)
	config.PidFile, config.PidfdSocket = e.pidFile, e.pidfdSocket
	io, err := a.connect(&e.launch, p)
	if err != nil {
		return 0, err
	}
	defer io.close()
	config.Stdin, config.Stdout, config.Stderr, config.ConsoleSocket = io.stdin, io.stdout, io.stderr, io.socket
	config.PlainOutput = io.host != nil
	process, err := c.Exec(background(), config)
	if err != nil {
		return 0, err
	}
	if err := io.started(process); err != nil || e.detach {
		return 0, err
	}
	return io.wait(process)
}

func (e *execution) allowed(c *runtime.Container) error {
	s, err := c.State()
	switch {
	case err != nil:
		return err
	case s.Status == runtime.Stopped:
		return errors.New("cannot exec in a stopped container")
	case s.Status == runtime.Paused && !e.ignorePaused:
		return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	return nil
}

// spec is the process to start: a file's, or the container's own with another
// command line.
func (e *execution) spec(c *runtime.Container, args []string) (*specs.Process, error) {
	if e.process != "" {
		text, err := os.ReadFile(e.process)
		if err != nil {
			return nil, err
		}
		p := &specs.Process{}
		if err := plainjson.Unmarshal(text, p); err != nil {
			return nil, fmt.Errorf("%s: %w", e.process, err)
		}
		return p, checkProcess(p)
	}
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	s, err := c.Spec()
	if err != nil {
		return nil, err
	}
	p := s.Process
	if p == nil {
		return nil, checkProcess(nil)
	}
	p.Args, p.Terminal = args, e.tty
	for value, field := range map[string]*string{e.cwd: &p.Cwd, e.profile: &p.ApparmorProfile, e.label: &p.SelinuxLabel} {
		if value != "" {
			*field = value
		}
	}
	if e.noNewPrivsGiven() {
		p.NoNewPrivileges = e.noNewPrivs
	}
	p.Env = append(p.Env, e.env...)
	e.addCapabilities(p)
	if err := e.setUser(&p.User); err != nil {
		return nil, err
	}
	return p, checkProcess(p)
}

// addCapabilities adds to the ambient set only where there is an inheritable
// one: the kernel wants both (capabilities(7)).
func (e *execution) addCapabilities(p *specs.Process) {
	if len(e.caps) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	c := p.Capabilities
	sets := []*[]string{&c.Bounding, &c.Effective, &c.Permitted}
	if c.Inheritable != nil {
		sets = append(sets, &c.Ambient)
	}
	for _, set := range sets {
		*set = append(slices.Clip(*set), e.caps...)
	}
}

func (e *execution) setUser(u *specs.User) error {
	if e.user != "" {
		uid, gid, both := strings.Cut(e.user, ":")
		if both {
			n, err := strconv.Atoi(gid)
			if err != nil {
				return fmt.Errorf("bad gid: %w", err)
			}
			u.GID = uint32(n)
		}
		n, err := strconv.Atoi(uid)
		if err != nil {
			return fmt.Errorf("bad uid: %w", err)
		}
		u.UID = uint32(n)
	}
	for _, gid := range e.gids {
		n, err := strconv.ParseUint(gid, 10, 32)
		if err != nil {
			return fmt.Errorf("additional-gids must be a positive number %s", gid)
		}
		u.AdditionalGids = append(u.AdditionalGids, uint32(n))
	}
	return nil
}

// subgroups reads --cgroup: one path, or "controller,…:path" more than once.
func subgroups(args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	paths := map[string]string{}
	for _, arg := range args {
		controllers, path, ok := strings.Cut(arg, ":")
		if !ok {
			if len(args) != 1 {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (missing <controller>: prefix)", arg)
			}
			return map[string]string{"": arg}, nil
		}
		for name := range strings.SplitSeq(controllers, ",") {
			if name == "" {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (empty <controller> prefix)", arg)
			}
			if _, twice := paths[name]; twice {
				return nil, fmt.Errorf("invalid --cgroup argument(s): controller %s specified multiple times", name)
			}
			paths[name] = path
		}
	}
	return paths, nil
}
