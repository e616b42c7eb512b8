// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/plainjson"
	"slipway/runtime"
)

// A launch is how create, run and exec start a process.
type launch struct {
	bundle, consoleSocket, pidfdSocket, pidFile string
	detach, keep, noSubreaper                   bool
	noPivot, noKeyring                          bool
	preserve                                    int
}

func (l *launch) add(f *flags) {
	f.StringVar(&l.bundle, "bundle, b", "", "path to the root of the bundle directory, defaults to the current directory")
	f.StringVar(&l.consoleSocket, "console-socket", "", "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal")
	f.StringVar(&l.pidfdSocket, "pidfd-socket", "", "path to an AF_UNIX socket which will receive a file descriptor referencing the init process")
	f.StringVar(&l.pidFile, "pid-file", "", "specify the file to write the process id to")
	f.BoolVar(&l.noPivot, "no-pivot", false, "do not use pivot root to jail process inside rootfs.  This should be used whenever the rootfs is on top of a ramdisk")
	f.BoolVar(&l.noKeyring, "no-new-keyring", false, "do not create a new session keyring for the container.  This will cause the container to inherit the calling processes session key")
	f.IntVar(&l.preserve, "preserve-fds", 0, "Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)")
}

func create(f *flags) func(*app, []string) error {
	l := &launch{detach: true}
	l.add(f)
	return func(a *app, args []string) error {
		_, _, err := a.create(l, args[0])
		return failed("create", err)
	}
}

func run(f *flags) func(*app, []string) error {
	l := &launch{}
	l.add(f)
	f.BoolVar(&l.detach, "detach, d", false, "detach from the container's process")
	f.BoolVar(&l.keep, "keep", false, "do not delete the container after it exits")
	f.BoolVar(&l.noSubreaper, "no-subreaper", false, "disable the use of the subreaper used to reap reparented processes")
	return func(a *app, args []string) error { return failed("run", a.runContainer(l, args[0])) }
}

// failed names the command, as with runc; a container's status is no failure.
func failed(command string, err error) error {
	var status exitStatus
	if err == nil || errors.As(err, &status) {
		return err
	}
	return fmt.Errorf("runc %s failed: %w", command, err)
}

func (a *app) runContainer(l *launch, id string) (err error) {
	if !l.noSubreaper {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			a.log.Warn("become a subreaper: " + err.Error())
		}
	}
	c, io, err := a.create(l, id)
	if err != nil {
		return err
	}
	defer io.close()
	remove := func() error { return c.Delete(context.WithoutCancel(background()), true) }
	notify, err := listenNotify(c)
	if err == nil {
		defer notify.close()
		err = c.Start(background())
	}
	if err != nil {
		return errors.Join(err, remove())
	}
	if l.detach {
		return notify.forward(c.Init().Pid)
	}
	go notify.forward(os.Getpid()) // ends with the socket
	status, err := io.wait(c.Init())
	if !l.keep {
		err = errors.Join(err, remove())
	}
	return end(status, err)
}

// end makes a process's status that of this program.
func end(status int, err error) error {
	if err == nil && status != 0 {
		return exitStatus(status)
	}
	return err
}

// create makes a container that waits to be started.
func (a *app) create(l *launch, id string) (*runtime.Container, *stdio, error) {
	return a.make(l, id, func(config runtime.Config) (*runtime.Container, error) {
		return runtime.Create(background(), config)
	})
}

// make makes a container and connects its standard streams.
func (a *app) make(l *launch, id string, create func(runtime.Config) (*runtime.Container, error)) (_ *runtime.Container, _ *stdio, err error) {
	config, err := a.configure(l, id)
	if err != nil {
		return nil, nil, err
	}
	io, err := a.connect(l, config.Spec.Process)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			io.close()
		}
	}()
	config.Stdin, config.Stdout, config.Stderr, config.ConsoleSocket = io.stdin, io.stdout, io.stderr, io.socket
	config.PlainOutput = io.host != nil
	c, err := create(*config)
	if err != nil {
		return nil, nil, err
	}
	if err := io.started(c.Init()); err != nil {
		return nil, nil, errors.Join(err, c.Delete(context.WithoutCancel(background()), true))
	}
	return c, io, nil
}

// configure reads the bundle and the options.
func (a *app) configure(l *launch, id string) (*runtime.Config, error) {
	if id == "" {
		return nil, errors.New("container id cannot be empty")
	}
	if err := l.enter(); err != nil {
		return nil, err
	}
	spec, err := loadSpec("config.json")
	if err != nil {
		return nil, err
	}
	rootless, err := a.isRootless()
	if err != nil {
		return nil, err
	}
	files, env, err := l.files()
	if err != nil {
		return nil, err
	}
	spec.Process.Env = append(spec.Process.Env, env...)
	return &runtime.Config{
		Root: a.root, ID: id, Bundle: l.bundle, Spec: spec, ExtraFiles: files,
		PidFile: l.pidFile, PidfdSocket: l.pidfdSocket, NotifySocket: os.Getenv("NOTIFY_SOCKET"),
		SystemdCgroup: a.systemd, Rootless: rootless, NoPivot: l.noPivot, NoNewKeyring: l.noKeyring, Log: a.log,
	}, nil
}

// enter makes the bundle the working directory, which hooks inherit, and the
// other paths independent of it.
func (l *launch) enter() error {
	if err := l.absolute(); err != nil {
		return err
	}
	if l.bundle != "" {
		if err := os.Chdir(l.bundle); err != nil {
			return err
		}
	}
	dir, err := os.Getwd()
	l.bundle = dir
	return err
}

func (l *launch) absolute() (err error) {
	for _, path := range []*string{&l.pidFile, &l.consoleSocket, &l.pidfdSocket} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	return nil
}

func loadSpec(path string) (*specs.Spec, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", filepath.Base(path))
	}
	if err != nil {
		return nil, err
	}
	var spec *specs.Spec
	if err := plainjson.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if spec == nil {
		return nil, errors.New("config cannot be null")
	}
	return spec, checkProcess(spec.Process)
}

func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process property must not be empty")
	case p.Cwd == "":
		return errors.New("Cwd property must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return errors.New("Cwd must be an absolute path")
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	}
	return nil
}

// firstFile is the descriptor after standard error, where a socket-activated
// service (sd_listen_fds(3)) finds its own.
const firstFile = 3

// files are the descriptors to hand over: those of socket activation, then
// those that were asked for.
func (l *launch) files() (files []*os.File, env []string, err error) {
	listen := 0
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		listen, _ = strconv.Atoi(os.Getenv("LISTEN_FDS"))
	}
	for i := range listen + l.preserve {
		fd := firstFile + i
		// What this program opened by itself is closed on exec; what it was
		// given is not.
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			err = unix.EBADF
		}
		if err != nil {
			return nil, nil, fmt.Errorf("unable to stat preserved-fd %d (of %d): %w", i-listen, l.preserve, err)
		}
		files = append(files, os.NewFile(uintptr(fd), "fd "+strconv.Itoa(fd)))
	}
	if listen > 0 {
		env = []string{"LISTEN_FDS=" + strconv.Itoa(listen), "LISTEN_PID=1"}
	}
	return files, env, nil
}
