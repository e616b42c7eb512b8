// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A consoleSocket receives the master of a pseudo terminal from an OCI runtime
// (runc's docs/terminals.md).
type consoleSocket struct {
	dir, path string
	l         *net.UnixListener
}

// listenConsole makes a socket in a directory of its own: the path of a bundle
// may be longer than the address of a socket (108 bytes).
func listenConsole() (_ *consoleSocket, err error) {
	dir, err := os.MkdirTemp("", "pty")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	path := filepath.Join(dir, "pty.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &consoleSocket{dir: dir, path: path, l: l}, nil
}

func (s *consoleSocket) close() {
	s.l.Close()
	os.RemoveAll(s.dir)
}

// receive returns the master that the runtime sent before it ended.
func (s *consoleSocket) receive(ctx context.Context) (*os.File, error) {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(10 * time.Second)
	}
	s.l.SetDeadline(end)
	c, err := s.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("console of the container: %w", err)
	}
	defer c.Close()
	c.SetDeadline(end)
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("console of the container: %w", err)
	}
	return fileOf(oob[:n])
}

// fileOf returns the descriptor in a control message, ready for the poller.
func fileOf(oob []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil, fmt.Errorf("console of the container: no descriptor was sent: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("console of the container: %d descriptors were sent: %v", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

// resize sets the size of a terminal.
func resize(console *os.File, width, height uint32) error {
	raw, err := console.SyscallConn()
	if err != nil {
		return err
	}
	size := &unix.Winsize{Col: uint16(width), Row: uint16(height)}
	cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("ioctl TIOCSWINSZ", err)
}
