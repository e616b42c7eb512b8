// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"slipway/runtime"
)

// A notifier passes on to the host's service manager that a container is ready
// (sd_notify(3)). A nil one does nothing.
type notifier struct {
	socket *net.UnixConn // where the container sends to
	host   string        // the service manager's socket
}

// listenNotify listens for a container that was created with a place for it.
func listenNotify(c *runtime.Container) (*notifier, error) {
	host, path := os.Getenv("NOTIFY_SOCKET"), c.NotifyPath()
	if _, err := os.Stat(filepath.Dir(path)); host == "" || err != nil {
		return nil, nil
	}
	if host[0] == '@' { // in the abstract namespace
		host = "\x00" + host[1:]
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o777); err != nil { // the container's user is another one
		return nil, errors.Join(err, socket.Close())
	}
	return &notifier{socket, host}, nil
}

func (n *notifier) close() {
	if n != nil {
		n.socket.Close()
	}
}

// forward waits until the container is ready, or the process pid is gone, and
// says so to the service manager, with pid as the process to watch.
func (n *notifier) forward(pid int) error {
	if n == nil {
		return nil
	}
	message := make([]byte, 4096)
	for {
		n.socket.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		size, err := n.socket.Read(message)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if unix.Kill(pid, 0) == unix.ESRCH {
				return nil
			}
			continue
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		for line := range bytes.SplitSeq(message[:size], []byte{'\n'}) {
			if bytes.HasPrefix(line, []byte("READY=")) {
				return n.ready(string(line), pid)
			}
		}
	}
}

func (n *notifier) ready(line string, pid int) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.host, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, text := range []string{line + "\n", fmt.Sprintf("MAINPID=%d\n", pid)} {
		if _, err := conn.Write([]byte(text)); err != nil {
			return err
		}
	}
	return barrier(conn)
}

// barrier waits until the service manager has read what was sent before
// (sd_notify_barrier(3), systemd 246): only then may this process end, whose
// unit it finds by the pid. An older one never answers.
func barrier(conn *net.UnixConn) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = sendFile(conn, "BARRIER=1", w)
	w.Close()
	if err != nil {
		return err
	}
	r.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, _ = r.Read(make([]byte, 1)) // the end of the pipe is the answer
	return nil
}

// sendFile sends a message with a descriptor.
func sendFile(conn *net.UnixConn, text string, file *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	rights := unix.UnixRights(int(file.Fd()))
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte(text), rights, nil, 0)
		return sent != unix.EAGAIN
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}
