// SPDX-License-Identifier: Apache-2.0

package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/fault"
	"slipway/internal/ident"
	"slipway/internal/mount"
)

// A bundle is the directory that a shim gets for one task. Its life on disk:
//
//	<state>/<ns>/<id>      made first, so that a name is taken once; holds
//	                       rootfs/ config.json work log shim-binary-path, then
//	                       bootstrap.json as soon as the shim has answered
//	<root>/<ns>/<id>       its working directory
//	<state>/<ns>/.<id>     while it is being removed
//
// Nothing in it is synced: it does not outlive the boot, because its
// processes do not.
type bundle struct {
	ns   ident.Namespace
	id   string
	path string
	work string
}

// Files of a bundle.
const (
	fileConfig    = "config.json"
	fileBinary    = "shim-binary-path"
	fileBootstrap = "bootstrap.json"
	fileAddress   = "address" // what shims left behind before bootstrap.json was
	fileSandbox   = "sandbox"
	fileLog       = "log"
	filePid       = "init.pid"
	dirRootfs     = "rootfs"
	linkWork      = "work"
)

func (x *Shims) bundle(ns ident.Namespace, id string) bundle {
	return bundle{ns, id, filepath.Join(x.cfg.State, string(ns), id), filepath.Join(x.cfg.Root, string(ns), id)}
}

func (b bundle) file(name string) string { return filepath.Join(b.path, name) }

// make creates the directories and config.json. The caller has reserved the
// name, so whatever is there is the rest of a removal that failed.
func (b bundle) make(spec []byte) (err error) {
	if err := b.remove(); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(b.path), filepath.Dir(b.work)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := os.Mkdir(b.path, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.remove())
		}
	}()
	fault.Point("task.bundle.made")
	if err := b.share(spec); err != nil {
		return err
	}
	if err := os.Mkdir(b.work, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(b.file(dirRootfs), 0o711); err != nil {
		return err
	}
	if err := os.Symlink(b.work, b.file(linkWork)); err != nil {
		return err
	}
	fault.Point("task.bundle.linked")
	return os.WriteFile(b.file(fileConfig), spec, 0o666)
}

// share lets the root user of the container's user namespace pass through the
// bundle to its root file system.
func (b bundle) share(spec []byte) error {
	var s struct {
		Linux struct{ GIDMappings []specs.LinuxIDMapping }
	}
	if len(spec) == 0 {
		return nil
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return fmt.Errorf("spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, m := range s.Linux.GIDMappings {
		if m.ContainerID != 0 || m.Size == 0 || m.HostID == 0 {
			continue
		}
		if err := os.Chown(b.path, -1, int(m.HostID)); err != nil {
			return err
		}
		return os.Chmod(b.path, 0o710)
	}
	return nil
}

// remove takes the bundle away, in whatever state it is: first out of sight,
// so that a half-removed one is never taken for a task.
func (b bundle) remove() error {
	if err := releaseRootfs(b.file(dirRootfs)); err != nil {
		return err
	}
	fault.Point("task.bundle.unmounted")
	if err := discard(b.path); err != nil {
		return err
	}
	fault.Point("task.bundle.removed")
	return discard(b.work)
}

// releaseRootfs removes a mount point with what is mounted there. The usual
// case is that nothing is, which rmdir(2) finds out cheapest. What is not
// empty then stays, because it could be the container's data.
func releaseRootfs(dir string) error {
	err := os.Remove(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err := mount.UnmountRecursive(dir); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// discard removes a directory tree under a hidden name.
func discard(dir string) error {
	hidden := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir))
	if err := discardHidden(hidden); err != nil {
		return err
	}
	if err := os.Rename(dir, hidden); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	fault.Point("task.bundle.renamed")
	return discardHidden(hidden)
}

func discardHidden(hidden string) error {
	if err := releaseRootfs(filepath.Join(hidden, dirRootfs)); err != nil {
		return err
	}
	return os.RemoveAll(hidden)
}

// read returns the text of a file, "" if there is none.
func (b bundle) read(name string) string {
	data, err := os.ReadFile(b.file(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// endpoint reads where the shim serves. An error that is fs.ErrNotExist says
// that no shim has answered yet.
func (b bundle) endpoint() (Endpoint, error) {
	data, err := os.ReadFile(b.file(fileBootstrap))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(b.file(fileAddress))
	}
	if err != nil {
		return Endpoint{}, err
	}
	return parseReply(data)
}

// record writes where the shim serves.
func (b bundle) record(e Endpoint) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	tmp := b.file("." + fileBootstrap)
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, b.file(fileBootstrap))
}

// A logPipe copies what a shim logs into the bundle's FIFO.
type logPipe struct {
	fifo *os.File
	to   io.Writer
	done chan struct{}
}

// openLog makes the FIFO if it is missing. It is opened for both directions,
// so that the shim may come and go without an end of file.
func (b bundle) openLog(to io.Writer) (*logPipe, error) {
	path := b.file(fileLog)
	if err := unix.Mkfifo(path, 0o700); err != nil && err != unix.EEXIST {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	l := &logPipe{f, to, make(chan struct{})}
	go func() {
		defer close(l.done)
		io.Copy(to, f)
	}()
	return l, nil
}

// close copies what is in the pipe already and ends.
func (l *logPipe) close() {
	l.fifo.SetReadDeadline(time.Now())
	<-l.done
	l.fifo.SetReadDeadline(time.Time{})
	if raw, err := l.fifo.SyscallConn(); err == nil {
		raw.Read(func(fd uintptr) bool {
			buf := make([]byte, 4096)
			for {
				n, err := unix.Read(int(fd), buf)
				if n <= 0 && err != unix.EINTR {
					return true // nothing is left
				}
				l.to.Write(buf[:max(n, 0)])
			}
		})
	}
	l.fifo.Close()
}
