// SPDX-License-Identifier: Apache-2.0

package runtime_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A notification is struct seccomp_notif, an answer struct seccomp_notif_resp
// of <linux/seccomp.h>.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id           uint64
	value        int64
	error, flags int32
}

func ioctl(fd uintptr, request uint, p unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}

// refuse is an agent: it takes the listener from a connection, answers one
// call with an error, and returns what it was told about the process.
func refuse(socket *net.UnixListener, with unix.Errno) (state specs.ContainerProcessState, err error) {
	socket.SetDeadline(time.Now().Add(time.Minute))
	conn, err := socket.AcceptUnix()
	if err != nil {
		return state, err
	}
	defer conn.Close()
	data, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, on, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(data[:n], &state); err != nil {
		return state, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil || len(messages) != 1 {
		return state, fmt.Errorf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return state, err
	}
	listener := os.NewFile(uintptr(fds[0]), "listener")
	defer listener.Close()
	var asked notification
	if err := ioctl(listener.Fd(), unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&asked)); err != nil {
		return state, err
	}
	no := answer{id: asked.id, error: -int32(with)}
	return state, ioctl(listener.Fd(), unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&no))
}

func TestAnAgentDecidesAboutCalls(t *testing.T) {
	l := newLab(t, runc)
	socket := listen(t, filepath.Join(l.dir, "agent"))
	l.bundle(func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", "mkdir /tmp/asked; echo $?"}
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: filepath.Join(l.dir, "agent"), ListenerMetadata: "meta",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}},
		}
	})
	told := make(chan specs.ContainerProcessState, 1)
	go func() {
		state, err := refuse(socket, unix.EDQUOT)
		if err != nil {
			t.Error(err)
		}
		told <- state
	}()
	r := l.run("run", l.name)
	state := <-told
	if r.status != 0 || r.stdout != "1\n" || !strings.Contains(r.stderr, "quota") {
		t.Errorf("%+v", r)
	}
	if state.Metadata != "meta" || len(state.Fds) != 1 || state.Fds[0] != specs.SeccompFdName || state.State.ID != l.name || state.Pid == 0 {
		t.Errorf("%+v", state)
	}
}
