// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/runtime"
)

func kill(f *flags) func(*app, []string) error {
	var all bool
	f.BoolVar(&all, "all, a", false, "(obsoleted, do not use)")
	f.hide("all")
	return func(a *app, args []string) error {
		c, err := a.container(args[0])
		if err != nil {
			return err
		}
		name := "SIGTERM"
		if len(args) > 1 && args[1] != "" {
			name = args[1]
		}
		sig, err := parseSignal(name)
		if err != nil {
			return err
		}
		return c.Kill(background(), sig, all)
	}
}

// parseSignal reads a number or a name with or without SIG.
func parseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}

func start(*flags) func(*app, []string) error {
	return onContainer(func(ctx context.Context, c *runtime.Container) error {
		s, err := c.State()
		if err != nil {
			return err
		}
		switch s.Status {
		case runtime.Created:
			return startNotifying(ctx, c, s.Pid)
		case runtime.Stopped:
			return errors.New("cannot start a container that has stopped")
		case runtime.Running:
			return errors.New("cannot start an already running container")
		}
		return fmt.Errorf("cannot start a container in the %s state", s.Status)
	})
}

// startNotifying starts c, and stays until it is ready if a service manager
// waits for that.
func startNotifying(ctx context.Context, c *runtime.Container, pid int) error {
	notify, err := listenNotify(c)
	if err != nil {
		return err
	}
	defer notify.close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	return notify.forward(pid)
}

func pause(*flags) func(*app, []string) error {
	return onContainer(func(ctx context.Context, c *runtime.Container) error { return c.Pause(ctx) })
}

func resume(*flags) func(*app, []string) error {
	return onContainer(func(ctx context.Context, c *runtime.Container) error { return c.Resume(ctx) })
}

func onContainer(do func(context.Context, *runtime.Container) error) func(*app, []string) error {
	return func(a *app, args []string) error {
		c, err := a.container(args[0])
		if err != nil {
			return err
		}
		return do(background(), c)
	}
}

func remove(f *flags) func(*app, []string) error {
	var force bool
	f.BoolVar(&force, "force, f", false, "Forcibly deletes the container if it is still running (uses SIGKILL)")
	return func(a *app, args []string) error {
		c, err := a.container(args[0])
		if errdefs.IsNotFound(err) {
			return a.removeRest(args[0], force, err)
		}
		if err != nil {
			return err
		}
		s, err := c.State()
		if err != nil && !force {
			return err
		}
		if !force && s.Status != runtime.Created && s.Status != runtime.Stopped {
			return fmt.Errorf("cannot delete container %s that is not stopped: %s", c.ID(), s.Status)
		}
		// One that was never started has nothing to lose.
		return c.Delete(background(), force || s.Status == runtime.Created)
	}
}

// removeRest removes a directory without a state file, which an aborted
// create leaves.
func (a *app) removeRest(id string, force bool, err error) error {
	if id != "" && id != "." && id != ".." && !strings.Contains(id, "/") {
		dir := filepath.Join(a.root, id)
		if e := os.RemoveAll(dir); e != nil {
			fmt.Fprintf(a.stderr, "remove %s: %v\n", dir, e)
		}
	}
	if force {
		return nil
	}
	return err
}
