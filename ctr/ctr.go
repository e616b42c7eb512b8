// SPDX-License-Identifier: Apache-2.0

// Package ctr is the command line of the daemon: one file per group of
// commands, each a table of commands with the functions behind them.
//
// A command is declared when it is asked for and not before, since what runs
// ahead of the first call to the daemon is paid by every use. What a command
// prints, where, and how it exits are those of containerd's client of the
// same name; the help is our own.
package ctr

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"slipway/internal/version"
	"slipway/linux"
)

// commands is the table of what ctr can do.
func commands() []command {
	return []command{
		{use: "plugins", aliases: []string{"plugin"}, short: "Show the plugins of the daemon", sub: pluginCommands},
		{use: "version", short: "Print the client and server versions", declare: showVersion},
		{use: "containers", aliases: []string{"c", "container"}, short: "Manage containers", sub: containerCommands},
		{use: "content", short: "Manage content", sub: contentCommands},
		{use: "events [FILTER...]", aliases: []string{"event"}, short: "Print events as they happen", declare: events},
		{use: "images", aliases: []string{"image", "i"}, short: "Manage images", sub: imageCommands},
		{use: "leases", short: "Manage leases", sub: leaseCommands},
		{use: "login [HOST]", short: "Log in to a registry", declare: login},
		{use: "logout [HOST]", short: "Forget the credentials for a registry", declare: logout},
		{use: "registry", short: "Configure and test registries", sub: registryCommands},
		{use: "namespaces", aliases: []string{"namespace", "ns"}, short: "Manage namespaces", sub: namespaceCommands},
		{use: "pprof", short: "Get profiles of the daemon", shared: debugSocket, sub: pprofCommands},
		{use: "run IMAGE|ROOTFS ID [COMMAND [ARG...]]", short: "Run a container", line: true, declare: run, names: imageNames},
		{use: "snapshots", aliases: []string{"snapshot"}, short: "Manage snapshots", shared: snapshotterFlag, sub: snapshotCommands},
		{use: "tasks", aliases: []string{"t", "task"}, short: "Manage tasks", sub: taskCommands},
		{use: "install REF", short: "Install programs from an image", declare: install, names: imageNames},
		{use: "oci", short: "Work with runtime specs", sub: ociCommands},
		{use: "sandboxes", aliases: []string{"sandbox", "sb", "s"}, short: "Manage sandboxes", sub: sandboxCommands},
		{use: "info", short: "Print what the daemon says of itself", declare: info},
		{use: "deprecations", short: "Show what is in use and about to go", sub: deprecationCommands},
		{use: "shim", short: "Talk to a shim directly", shared: shimFlags, sub: shimCommands},
	}
}

// Main runs the command line of the process and returns its exit status.
func Main() int {
	linux.CalmMonitor(time.Millisecond) // what fails costs nothing but time
	s := &session{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	interrupts := []os.Signal{unix.SIGINT, unix.SIGTERM}
	if !signal.Ignored(unix.SIGHUP) { // as under nohup
		interrupts = append(interrupts, unix.SIGHUP)
	}
	s.ctx, s.release = untilInterrupt(interrupts...)
	err := s.execute(os.Args[1:])
	s.close()
	var status exitStatus
	var signal interrupt
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled) && errors.As(context.Cause(s.ctx), &signal):
		return 128 + int(signal)
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintf(s.err, "ctr: %s\n", err)
	return 1
}

// untilInterrupt returns a context that ends with a signal. After release it
// does not, nor has it ended by that.
func untilInterrupt(signals ...os.Signal) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	got, released := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(got, signals...)
	go func() {
		select {
		case sig := <-got:
			cancel(interrupt(sig.(unix.Signal)))
		case <-released:
		}
	}()
	return ctx, sync.OnceFunc(func() {
		signal.Stop(got)
		close(released)
	})
}

// interrupt is why a session ended that a signal ended.
type interrupt unix.Signal

func (i interrupt) Error() string { return unix.Signal(i).String() }

// exitStatus is the status of a process in a container, which becomes ours.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exited turns a process's status into an error, none for 0.
func exited(status uint32) error {
	if status == 0 {
		return nil
	}
	return exitStatus(status)
}

// execute finds the command that args name, declares its flags and runs it.
func (s *session) execute(args []string) error {
	root := &cobra.Command{
		Use:              "ctr",
		Short:            "Command line of the containerd daemon",
		Version:          version.Version,
		SilenceErrors:    true,
		SilenceUsage:     true,
		TraverseChildren: true,
	}
	root.SetVersionTemplate(fmt.Sprintf("ctr %s %s\n", version.Package, version.Version))
	s.globals.declare(root.Flags())
	unknown(root)
	t := newTree(s)
	t.add(root, commands())
	t.declareFor(root, args)
	root.SetArgs(t.spell(root, args))
	c, err := root.ExecuteContextC(s.ctx)
	if text := wrongFlag(err); text != "" {
		fmt.Fprintf(s.out, "Incorrect Usage: %s\n\n", text)
		c.Help()
		return errors.New(text)
	}
	return err
}
