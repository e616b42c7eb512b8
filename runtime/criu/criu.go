// SPDX-License-Identifier: Apache-2.0

// Package criu asks CRIU to save processes to a directory of images and to
// bring them back. It runs `criu swrk`, whose protocol is a conversation in
// protocol buffers over a socket (criu.org/RPC, images/rpc.proto): one
// request, notifications that must be answered, and a response.
package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/linux"
)

// A Kind of request.
type Kind uint64

// What CRIU can be asked to do (criu_req_type).
const (
	Dump    Kind = 1
	Restore Kind = 2
	PreDump Kind = 4
	notify  Kind = 6
)

// Options are criu_opts, as far as containers need them.
type Options struct {
	Images, Work string // directories; Work is where the log goes
	ParentImages string // relative to Images
	Root         string // root file system: a mount point, for Restore
	Pid          int    // for Dump

	LeaveRunning, ExternalUnix, TCPEstablished, TCPSkipInFlight, ShellJob, FileLocks bool
	LinkRemap, AutoDedup, LazyPages                                                  bool
	ManageCgroups                                                                    string // soft, full, strict, ignore
	FreezeCgroup                                                                     string // directory
	EmptyNamespaces                                                                  uint32 // CLONE_NEW*
	PageServer                                                                       string // address
	PageServerPort                                                                   int
	StatusFile                                                                       *os.File
	ConfigFile, LSMProfile, LSMMountContext                                          string

	Mounts      [][2]string       // external mounts: on Dump place and name, on Restore name and source
	External    []string          // other external resources
	CgroupRoots map[string]string // by controller, for Restore
	Inherit     []Inherited       // open files that take the place of dumped ones
	JoinNS      [][2]string       // name and file, for Restore

	imagesFd, workFd uintptr
}

// Inherited is an open file by the name that a dumped one had. Without File it
// is CRIU's own descriptor Fd: 0, 1 or 2.
type Inherited struct {
	Name string
	File *os.File
	Fd   int
}

// A Session is what a caller takes part in.
type Session struct {
	// Wait, if set, waits for CRIU in place of exec.Cmd's Wait.
	Wait                  func(*exec.Cmd) error
	Stdin, Stdout, Stderr *os.File // of restored processes
	// Started gets the pid of CRIU before it gets the request, which Started
	// may still change.
	Started func(pid int, o *Options) error
	// Notify hears how far CRIU is: "post-dump", "setup-namespaces",
	// "post-restore" with the pid of the restored process, "orphan-pts-master"
	// with a file.
	Notify func(script string, pid int, files []*os.File) error
}

// modes are the values of criu_cg_mode.
var modes = map[string]uint64{"ignore": 0, "soft": 3, "": 3, "full": 4, "strict": 5}

// Do runs CRIU. What it restores are children of the caller.
func (s *Session) Do(ctx context.Context, kind Kind, o Options) error {
	if _, ok := modes[o.ManageCgroups]; !ok {
		return fmt.Errorf("cgroups mode %q is unknown: %w", o.ManageCgroups, errdefs.ErrInvalidArgument)
	}
	path, err := exec.LookPath("criu")
	if err != nil {
		return fmt.Errorf("criu: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	cmd := exec.CommandContext(ctx, path, "swrk", "3")
	s.lend(cmd)
	ours, theirs, err := linux.SocketPair("criu")
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	files, err := o.open(cmd)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err == nil {
		err = linux.OwnTimers(cmd.Start)
	}
	theirs.Close()
	if err != nil {
		return fmt.Errorf("criu: %w", err)
	}
	if err := s.finish(cmd, ours, kind, &o); err != nil {
		return fmt.Errorf("%w%s", err, o.firstError(kind))
	}
	return nil
}

// lend gives CRIU the streams; a nil *os.File is not a nil io.Writer.
func (s *Session) lend(cmd *exec.Cmd) {
	if s.Stdin != nil {
		cmd.Stdin = s.Stdin
	}
	if s.Stdout != nil {
		cmd.Stdout = s.Stdout
	}
	if s.Stderr != nil {
		cmd.Stderr = s.Stderr
	}
}

// finish speaks with a started CRIU and waits for its end.
func (s *Session) finish(cmd *exec.Cmd, socket *os.File, kind Kind, o *Options) (err error) {
	if s.Started != nil {
		err = s.Started(cmd.Process.Pid, o)
	}
	if err == nil {
		err = s.converse(socket, kind, o)
	}
	socket.Close()
	if err != nil {
		_ = cmd.Process.Kill()
	}
	wait := s.Wait
	if wait == nil {
		wait = (*exec.Cmd).Wait
	}
	if ended := wait(cmd); err == nil && ended != nil {
		err = fmt.Errorf("criu: %w", ended)
	}
	return err
}

// firstExtra is the descriptor in CRIU of the first of exec.Cmd's ExtraFiles.
const firstExtra = 3

// open opens what the request names by descriptor. Directories and the status
// file are the caller's, which CRIU looks up by the other end of the socket;
// what is inherited is CRIU's own.
func (o *Options) open(cmd *exec.Cmd) (files []*os.File, err error) {
	if o.Work == "" {
		o.Work = o.Images
	}
	for _, dir := range []string{o.Images, o.Work} {
		f, err := os.Open(dir)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	o.imagesFd, o.workFd = files[0].Fd(), files[1].Fd()
	for i := range o.Inherit {
		if f := o.Inherit[i].File; f != nil {
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			o.Inherit[i].Fd = firstExtra + len(cmd.ExtraFiles) - 1
		}
	}
	return files, nil
}

// converse sends the request and answers until the response comes.
func (s *Session) converse(socket *os.File, kind Kind, o *Options) error {
	var request fields
	request.number(1, uint64(kind))
	request.message(2, o.encode(kind))
	if err := linux.Send(socket, request); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, files, err := linux.Receive(socket, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("criu ended without an answer: %w", errdefs.ErrUnavailable)
		}
		r, err := parseResponse(buf[:n])
		if err == nil && r.kind == notify {
			err = s.notified(socket, r, files)
		}
		for _, f := range files {
			f.Close()
		}
		switch {
		case err != nil:
			return err
		case r.kind == notify:
		case !r.success:
			return fmt.Errorf("criu failed: %s (errno %d)", r.text, r.errno)
		default:
			return nil
		}
	}
}

func (s *Session) notified(socket *os.File, r response, files []*os.File) error {
	var err error
	if s.Notify != nil {
		err = s.Notify(r.script, r.pid, files)
	}
	var answer fields
	answer.number(1, uint64(notify))
	answer.flag(3, err == nil)
	return errors.Join(err, linux.Send(socket, answer))
}

// logName is CRIU's log in the work directory.
func logName(kind Kind) string {
	if kind == Restore {
		return "restore.log"
	}
	return "dump.log"
}

// firstError quotes the log, which says more than the response.
func (o *Options) firstError(kind Kind) string {
	f, err := os.Open(filepath.Join(o.Work, logName(kind)))
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if _, text, ok := strings.Cut(lines.Text(), "Error "); ok {
			return ": " + text
		}
	}
	return ""
}
