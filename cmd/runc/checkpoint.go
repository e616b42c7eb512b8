// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/runtime"
	"slipway/runtime/criu"
)

// An image is what checkpoint and restore are asked for.
type image struct {
	criu.Options
	emptyNS    []string
	pageServer string
	statusFd   int
}

func (i *image) add(f *flags) {
	f.StringVar(&i.Images, "image-path", "", "path for saving criu image files")
	f.StringVar(&i.Work, "work-path", "", "path for saving work files and logs")
	f.BoolVar(&i.TCPEstablished, "tcp-established", false, "allow open tcp connections")
	f.BoolVar(&i.ExternalUnix, "ext-unix-sk", false, "allow external unix sockets")
	f.BoolVar(&i.ShellJob, "shell-job", false, "allow shell jobs")
	f.BoolVar(&i.FileLocks, "file-locks", false, "handle file locks, for safety")
	f.StringVar(&i.ManageCgroups, "manage-cgroups-mode", "", "cgroups mode: soft|full|strict|ignore (default: soft)")
	f.ListVar(&i.emptyNS, "empty-ns", "create a namespace, but don't restore its properties")
	f.BoolVar(&i.AutoDedup, "auto-dedup", false, "enable auto deduplication of memory images")
	f.BoolVar(&i.LazyPages, "lazy-pages", false, "use userfaultfd to lazily restore memory pages")
}

func checkpoint(f *flags) func(*app, []string) error {
	i := &image{statusFd: -1}
	i.add(f)
	var before bool
	f.StringVar(&i.ParentImages, "parent-path", "", "path for previous criu image files in pre-dump")
	f.BoolVar(&i.LeaveRunning, "leave-running", false, "leave the process running after checkpointing")
	f.BoolVar(&i.TCPSkipInFlight, "tcp-skip-in-flight", false, "skip in-flight tcp connections")
	f.BoolVar(&i.LinkRemap, "link-remap", false, "allow one to link unlinked files back when possible")
	f.IntVar(&i.statusFd, "status-fd", -1, "criu writes \\0 to this FD once lazy-pages is ready")
	f.StringVar(&i.pageServer, "page-server", "", "ADDRESS:PORT of the page server")
	f.BoolVar(&before, "pre-dump", false, "dump container's memory information only, leave the container running after this")
	return func(a *app, args []string) error {
		c, err := a.container(args[0])
		if err != nil {
			return err
		}
		if err := i.prepare(); err != nil {
			return err
		}
		s, err := c.Spec()
		if err != nil {
			return err
		}
		i.ConfigFile = s.Annotations["org.criu.config"]
		if err := c.Checkpoint(background(), i.Options, before); err != nil || i.LeaveRunning || before {
			return err
		}
		if err := c.Delete(context.WithoutCancel(background()), true); err != nil {
			a.log.Warn(err.Error())
		}
		return nil
	}
}

// prepare checks the options and makes paths absolute.
func (i *image) prepare() (err error) {
	if i.Images == "" {
		i.Images = "checkpoint"
	}
	for _, dir := range []*string{&i.Images, &i.Work} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	if filepath.IsAbs(i.ParentImages) {
		return errors.New("--parent-path must be relative")
	}
	if i.ParentImages != "" {
		if st, err := os.Stat(filepath.Join(i.Images, i.ParentImages)); err != nil || !st.IsDir() {
			return errors.Join(fmt.Errorf("invalid --parent-path: %s is no directory", i.ParentImages), err)
		}
	}
	if i.statusFd >= 0 {
		i.StatusFile = os.NewFile(uintptr(i.statusFd), "status-fd")
	}
	// Network devices are not the runtime's, so they are not restored.
	i.EmptyNamespaces = unix.CLONE_NEWNET
	for _, ns := range i.emptyNS {
		if ns != string(specs.NetworkNamespace) {
			return fmt.Errorf("namespace %q is not supported", ns)
		}
	}
	return i.setPageServer()
}

func (i *image) setPageServer() error {
	if i.pageServer == "" {
		return nil
	}
	address, port, err := net.SplitHostPort(i.pageServer)
	if err != nil || address == "" || port == "" {
		return errors.New("Use --page-server ADDRESS:PORT to specify page server")
	}
	if i.PageServerPort, err = strconv.Atoi(port); err != nil {
		return errors.New("Invalid port number")
	}
	i.PageServer = address
	return nil
}

func restore(f *flags) func(*app, []string) error {
	i, l := &image{statusFd: -1}, &launch{}
	i.add(f)
	f.StringVar(&i.LSMProfile, "lsm-profile", "", "Specify an LSM profile to be used during restore in the form of TYPE:NAME.")
	f.StringVar(&i.LSMMountContext, "lsm-mount-context", "", "Specify an LSM mount context to be used during restore.")
	l.add(f)
	f.BoolVar(&l.detach, "detach, d", false, "detach from the container's process")
	f.BoolVar(&l.noSubreaper, "no-subreaper", false, "disable the use of the subreaper used to reap reparented processes")
	return func(a *app, args []string) error {
		if err := i.prepare(); err != nil {
			return err
		}
		make := func(config runtime.Config) (*runtime.Container, error) {
			i.ConfigFile = config.Spec.Annotations["org.criu.config"]
			return runtime.Restore(background(), config, i.Options)
		}
		return a.restore(l, args[0], make)
	}
}

// restore is run with a container that is running already.
func (a *app) restore(l *launch, id string, make func(runtime.Config) (*runtime.Container, error)) error {
	if !l.noSubreaper {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			a.log.Warn("become a subreaper: " + err.Error())
		}
	}
	c, io, err := a.make(l, id, make)
	if err != nil {
		return err
	}
	defer io.close()
	if l.detach {
		return nil
	}
	status, err := io.wait(c.Init())
	return end(status, errors.Join(err, c.Delete(context.WithoutCancel(background()), true)))
}
