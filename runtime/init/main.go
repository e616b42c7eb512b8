// SPDX-License-Identifier: Apache-2.0

// Command init is the first program in a container. The runtime executes a
// sealed copy of it in the container's namespaces; it makes the file system
// and the process what the configuration says, and then executes the user's
// program in its own place. Package protocol has what it and the runtime say
// to each other.
//
// It links little, and does all of its work on the thread that it starts on:
// credentials and filters belong to threads.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/plainjson"
	"slipway/linux"
	"slipway/runtime/protocol"
)

func main() {
	runtime.LockOSThread()
	conn, err := connect()
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(1)
	}
	defer func() {
		if p := recover(); p != nil {
			fail(conn, fmt.Errorf("panic in init: %v", p))
		}
	}()
	fail(conn, run(conn))
}

// fail tells the runtime, if it still listens, and else the user, who has the
// standard error once the process has been started.
func fail(conn *protocol.Conn, err error) {
	if conn.Send(protocol.Message{Kind: protocol.Failed, Error: err.Error()}) != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}

// connect marks what the runtime may have leaked into this process.
func connect() (*protocol.Conn, error) {
	if err := linux.Prctl("set dumpable", unix.PR_SET_DUMPABLE, 0); err != nil {
		return nil, err
	}
	if err := closeOnExec(protocol.Socket); err != nil {
		return nil, err
	}
	return protocol.NewInitConn(os.NewFile(protocol.Socket, "runtime")), nil
}

// closeOnExec marks the descriptors from first on. Before Linux 5.11 there is
// no call that does it; there are few descriptors then, and none is high.
func closeOnExec(first uint) error {
	err := linux.CloseOnExec(first)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	for fd := uintptr(first); fd < uintptr(min(lim.Max, 1<<16)); fd++ {
		unix.FcntlInt(fd, unix.F_SETFD, unix.FD_CLOEXEC) // EBADF: not open
	}
	return nil
}

// container is what this process turns itself into a part of.
type container struct {
	protocol.Init
	conn  *protocol.Conn
	files map[string]*os.File
	proc  *os.File // the host's procfs, opened before the root changed; nil when joining
}

func run(conn *protocol.Conn) error {
	c, err := receive(conn)
	if err != nil {
		return err
	}
	if err := c.enter(); err != nil {
		return err
	}
	program, err := c.become()
	if err != nil {
		return err
	}
	return c.finish(program)
}

func receive(conn *protocol.Conn) (*container, error) {
	m, files, err := conn.Receive()
	if err == io.EOF {
		os.Exit(1) // the runtime has given up or died
	}
	if err != nil {
		return nil, err
	}
	c := &container{conn: conn, files: map[string]*os.File{}}
	for i, name := range m.Names {
		c.files[name] = files[i]
	}
	config := c.files[protocol.FileConfig]
	if config == nil {
		return nil, errors.New("no configuration")
	}
	defer config.Close()
	data, err := io.ReadAll(io.NewSectionReader(config, 0, 1<<30))
	if err != nil {
		return nil, err
	}
	if err := plainjson.Unmarshal(data, &c.Init); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if c.Spec == nil || c.Spec.Process == nil || len(c.Spec.Process.Args) == 0 {
		return nil, errors.New("configuration without a process")
	}
	return c, nil
}

// numbered are the files whose name is prefix and a number, by number.
func (c *container) numbered(prefix string) map[int]*os.File {
	m := map[int]*os.File{}
	for name, f := range c.files {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			n := 0
			for _, d := range rest {
				n = n*10 + int(d-'0')
			}
			m[n] = f
		}
	}
	return m
}
