// SPDX-License-Identifier: Apache-2.0

// Command containerd is the daemon.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"slipway/daemon"
	"slipway/internal/logline"
	"slipway/internal/version"
	"slipway/linux"
)

const usage = `usage: containerd [options]               run the daemon
       containerd [options] config default  print the configuration without a file
       containerd [options] config dump     print the configuration as it is read
       containerd [options] config migrate  print the configuration file in its newest form
       containerd [options] config check    report what the file says in vain
       containerd [options] publish --namespace NS --topic TOPIC   publish the event on stdin
       containerd oci-hook COMMAND [ARG]...  run a hook, with templates over the container's state

options:
  -c, --config FILE      configuration file (default %s)
  -l, --log-level LEVEL  trace, debug, info, warn, error, fatal or panic
  -a, --address SOCKET   socket of the gRPC API
      --root DIR         directory of what stays
      --state DIR        directory of what a reboot may remove
  -v, --version          print the version
  -h, --help             print this
`

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Printf(usage, daemon.DefaultConfigPath)
	case err != nil:
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}

// flags are the options that come before a command. They have one dash or two.
type flags struct {
	config, logLevel, address, root, state string
	version                                bool
	chosen                                 bool // the configuration file was named
}

func parse(args []string) (f flags, rest []string, err error) {
	set := flag.NewFlagSet("containerd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, s := range []struct {
		to          *string
		name, short string
	}{
		{&f.config, "config", "c"}, {&f.logLevel, "log-level", "l"}, {&f.address, "address", "a"}, {&f.root, "root", ""}, {&f.state, "state", ""},
	} {
		set.StringVar(s.to, s.name, "", "")
		if s.short != "" {
			set.StringVar(s.to, s.short, "", "")
		}
	}
	set.BoolVar(&f.version, "version", false, "")
	set.BoolVar(&f.version, "v", false, "")
	if err := set.Parse(args); err != nil {
		return f, nil, err
	}
	if f.chosen = f.config != ""; !f.chosen {
		f.config = daemon.DefaultConfigPath
	}
	return f, set.Args(), nil
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	f, args, err := parse(args)
	if err != nil {
		return err
	}
	if f.version {
		_, err := fmt.Fprintln(stdout, "containerd", version.Package, version.Version, version.Revision)
		return err
	}
	if len(args) == 0 {
		return serve(f, stderr)
	}
	switch args[0] {
	case "config":
		return config(f, args[1:], stdout)
	case "publish":
		return publish(f, args[1:], stdin)
	case "oci-hook":
		return ociHook(args[1:], stdin)
	case "help":
		return flag.ErrHelp
	}
	return fmt.Errorf("unknown command %q, see containerd --help", args[0])
}

// load reads the configuration and lays the flags over it.
func (f flags) load() (*daemon.Config, []daemon.Note, error) {
	c, notes, err := daemon.LoadConfig(f.config)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range []struct {
		from string
		to   *string
	}{{f.root, &c.Root}, {f.state, &c.State}, {f.logLevel, &c.Debug.Level}} {
		if o.from != "" {
			*o.to = o.from
		}
	}
	if f.address != "" {
		c.SetAddress(f.address)
	}
	return c, notes, nil
}

func serve(f flags, stderr io.Writer) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1)
	signal.Ignore(unix.SIGPIPE) // a logger that is gone
	if f.chosen {               // only the default file may be missing
		if _, err := os.Stat(f.config); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	c, notes, err := f.load()
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if c.Debug.Level != "" {
		if level, err = logline.ParseLevel(c.Debug.Level); err != nil {
			return err
		}
	}
	h, err := logline.New(stderr, level, c.Debug.Format)
	if err != nil {
		return err
	}
	log := slog.New(h)
	slog.SetDefault(log)
	if err := linux.CalmMonitor(500 * time.Microsecond); err != nil {
		log.Debug("timers of the runtime stay exact", "error", err)
	}
	for _, n := range notes {
		log.Warn("configuration: " + n.String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go obey(signals, log, cancel)
	return boot(ctx, c)
}

// obey stops the daemon, or shows what it does, as long as the process lives.
func obey(signals <-chan os.Signal, log *slog.Logger, stop func()) {
	for s := range signals {
		log.Debug("received signal", "signal", s)
		if s == unix.SIGUSR1 {
			daemon.DumpStacks(log)
			continue
		}
		stop()
	}
}

// bootTime is how long a start may go on when the daemon is told to stop. What
// it does then, such as waiting for a database that another process holds, may
// be interrupted at any point.
const bootTime = 5 * time.Second

func boot(ctx context.Context, c *daemon.Config) error {
	var d *daemon.Daemon
	booted := make(chan error, 1)
	go func() {
		var err error
		d, err = daemon.Boot(ctx, c)
		booted <- err
	}()
	select {
	case err := <-booted:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		select {
		case err := <-booted:
			if err != nil {
				return err
			}
		case <-time.After(bootTime):
			return errors.New("told to stop before the start was done")
		}
	}
	return d.Run(ctx)
}

func config(f flags, args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return errors.New("config needs one of default, dump, migrate and check")
	}
	if args[0] == "default" {
		return daemon.DefaultConfig().Write(stdout)
	}
	c, notes, err := f.load()
	if err != nil {
		return err
	}
	switch args[0] {
	case "dump", "migrate":
		return c.Write(stdout)
	case "check":
		return check(notes, stdout)
	}
	return fmt.Errorf("unknown command %q, see containerd --help", "config "+args[0])
}

func check(notes []daemon.Note, stdout io.Writer) error {
	vain := 0
	for _, n := range notes {
		if !n.Old {
			vain++
		}
		fmt.Fprintln(stdout, n)
	}
	if vain > 0 {
		return fmt.Errorf("the configuration says %d things in vain", vain)
	}
	return nil
}
