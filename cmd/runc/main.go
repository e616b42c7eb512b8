// SPDX-License-Identifier: Apache-2.0

// Command runc runs OCI containers from bundles. Its commands, flags, output,
// exit codes and log format are those of runc 1.5; the work is done by package
// runtime.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/version"
	"slipway/linux"
	"slipway/runtime"
)

// An exitStatus ends the program with a container's status.
type exitStatus int

func (e exitStatus) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// A coded error ends the program with a status other than 1.
type coded struct {
	error
	status int
}

func (c coded) Unwrap() error { return c.error }

func main() {
	// There is nothing to do in parallel: more would only wake threads.
	goruntime.GOMAXPROCS(1)
	linux.CalmMonitor(500 * time.Microsecond) // what fails costs nothing but time
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, args0: os.Args[0]}
	os.Exit(a.main(os.Args[1:]))
}

// An app is one invocation: the global options, and where output goes.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	args0          string

	root      string
	rootGiven bool
	systemd   bool
	rootless  string
	log       *slog.Logger
	logToFile bool
}

// main runs a command line and returns the exit status.
func (a *app) main(args []string) int {
	a.log = slog.New(newHandler(a.stderr, "text", false))
	err := a.run(args)
	var status exitStatus
	var c coded
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	text := withoutKind(err)
	a.log.Error(text)
	if a.logToFile {
		fmt.Fprintln(a.stderr, text)
	}
	if errors.As(err, &c) {
		return c.status
	}
	return 1
}

// kinds are the ends of error texts that are for programs, not for readers.
var kinds = []error{
	errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition,
}

// withoutKind is an error's text as runc's callers know it.
func withoutKind(err error) string {
	text := err.Error()
	for _, kind := range kinds {
		// The same words may be the kernel's, or come from a container's init.
		if errors.Is(err, kind) && !errors.Is(err, unix.EINVAL) {
			text = strings.TrimSuffix(text, ": "+kind.Error())
		}
	}
	return text
}

// run reads the global options and runs the command that comes after them.
func (a *app) run(args []string) error {
	var g struct {
		debug, version, help bool
		log, format          string
	}
	f := newFlags("runc")
	f.BoolVar(&g.debug, "debug", false, "enable debug logging")
	f.StringVar(&g.log, "log", "", "set the log file to write runc logs to (default is '/dev/stderr')")
	f.StringVar(&g.format, "log-format", "text", "set the log format ('text' (default), or 'json')")
	f.StringVar(&a.root, "root", defaultRoot(), "root directory for storage of container state (this should be located in tmpfs)")
	f.BoolVar(&a.systemd, "systemd-cgroup", false, "enable systemd cgroup support, expects cgroupsPath to be of form \"slice:prefix:name\" for e.g. \"system.slice:runc:434234\"")
	f.StringVar(&a.rootless, "rootless", "auto", "ignore cgroup permission errors ('true', 'false', or 'auto')")
	f.BoolVar(&g.help, "help, h", false, "show help")
	f.BoolVar(&g.version, "version, v", false, "print the version")
	if err := f.Parse(args); err != nil {
		fmt.Fprintf(a.stdout, "Incorrect Usage. %v\n\n", err)
		a.help(f)
		return err
	}
	if g.version {
		return a.printVersion()
	}
	if g.help || f.NArg() == 0 || f.Arg(0) == "help" || f.Arg(0) == "h" {
		return a.showHelp(f)
	}
	cmd := find(f.Arg(0))
	if cmd == nil {
		fmt.Fprintf(a.stdout, "No help topic for '%s'\n", f.Arg(0))
		return exitStatus(3)
	}
	a.rootGiven = f.isSet("root")
	if err := a.prepareRoot(); err != nil {
		return err
	}
	if err := a.openLog(g.log, g.format, g.debug); err != nil {
		return err
	}
	return cmd.invoke(a, f.Args()[1:])
}

// openLog sends the log to a file, if one is named.
func (a *app) openLog(file, format string, debug bool) error {
	if format != "" && format != "text" && format != "json" {
		return errors.New("invalid log-format: " + format)
	}
	to := a.stderr
	if file != "" {
		// Synchronous, since the reader looks when this process has ended.
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
		if err != nil {
			return err
		}
		to, a.logToFile = f, true
	}
	a.log = slog.New(newHandler(to, format, debug))
	return nil
}

// defaultRoot is below the user's runtime directory for one who is not root,
// and for the root of a user namespace.
func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && unprivileged() {
		return dir + "/runc"
	}
	return "/run/runc"
}

func unprivileged() bool {
	if os.Geteuid() != 0 {
		return true
	}
	user, ok := os.LookupEnv("USER")
	return inUserNamespace() && (!ok || user != "root")
}

// inUserNamespace says whether user ids are mapped (user_namespaces(7)).
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295"
}

func (a *app) prepareRoot() error {
	if !a.rootGiven {
		if a.root == "/run/runc" {
			return nil
		}
		// The sticky bit keeps the directory from being cleaned up (XDG Base
		// Directory Specification).
		if err := os.MkdirAll(a.root, 0o700); err != nil {
			return err
		}
		return os.Chmod(a.root, 0o700|os.ModeSticky)
	}
	root, err := filepath.Abs(a.root)
	if err != nil {
		return err
	}
	if root == "/" {
		return errors.New("Option --root argument should not be set to /")
	}
	a.root = root
	return nil
}

// isRootless says whether errors for want of permission are to be expected.
func (a *app) isRootless() (bool, error) {
	if a.rootless != "" && strings.ToLower(a.rootless) != "auto" {
		return strconv.ParseBool(a.rootless)
	}
	return os.Geteuid() != 0 || inUserNamespace(), nil
}

func (a *app) container(id string) (*runtime.Container, error) {
	if id == "" {
		return nil, errors.New("container id cannot be empty")
	}
	return runtime.Load(a.root, id)
}

func (a *app) printVersion() error {
	commit := ""
	if version.Revision != "" {
		commit = "commit: " + version.Revision + "\n"
	}
	_, err := fmt.Fprintf(a.stdout, "runc version %s\n%sspec: %s\ngo: %s\n", releaseVersion, commit, specs.Version, goVersion())
	return err
}

// background is the context of commands: nobody cancels them but a signal.
func background() context.Context { return context.Background() }
