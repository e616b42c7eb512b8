// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// MaxFiles is how many descriptors one message can carry (SCM_MAX_FD).
const MaxFiles = 253

// SocketPair makes two connected sockets whose messages keep their bounds.
func SocketPair(name string) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, callError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// Send sends a message with files over a unix socket.
func Send(socket *os.File, data []byte, files ...*os.File) error {
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	return pathError("sendmsg", socket.Name(), retry(func() error {
		return unix.Sendmsg(int(socket.Fd()), data, oob, nil, unix.MSG_NOSIGNAL)
	}))
}

// Receive reads a message of up to len(buf) bytes with the files that came
// with it; no bytes and no files are the end. A longer message is an error.
func Receive(socket *os.File, buf []byte) (n int, files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(MaxFiles*4))
	var oobn, flags int
	err = retry(func() (err error) {
		n, oobn, flags, _, err = unix.Recvmsg(int(socket.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return 0, nil, pathError("recvmsg", socket.Name(), err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, pathError("recvmsg", socket.Name(), err)
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // another kind of control message
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), socket.Name()))
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(files)
		return 0, nil, pathError("recvmsg", socket.Name(), unix.EMSGSIZE)
	}
	return n, files, nil
}

// Connect connects a stream socket to the unix socket at path.
func Connect(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, callError("socket", err)
	}
	err = retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
	if err != nil {
		unix.Close(fd)
		return nil, pathError("connect", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
