// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/plainjson"
	"slipway/linux"
	"slipway/runtime/protocol"
	"slipway/runtime/seccomp"
)

// launch is the start of one process: an init that becomes what init says.
type launch struct {
	spec    *specs.Process
	init    protocol.Init
	fork    linux.Fork
	stdio   [3]*os.File
	console *os.File            // socket for the terminal's master
	files   map[string]*os.File // for the init, by name; closed by close unless lent
	lent    []*os.File          // extra files of the caller
	filter  *seccomp.Program
	log     *slog.Logger // nil for none

	// prepared is called with the pid before the init gets its configuration.
	prepared func(pid int) error
	// hooks is called when the init asks for it.
	hooks func(pid int) error
	// state is what the listener of the seccomp filter is told.
	state func(pid int) *specs.State

	conn *protocol.Conn
	owns []*os.File
}

// program keeps the sealed init: nobody can change it, and executing it does
// not lend it, so one copy serves every container of this process.
var program struct {
	sync.Mutex
	file *os.File
}

// openProgram is the sealed init, for the caller to close.
func openProgram() (*os.File, error) {
	program.Lock()
	defer program.Unlock()
	if program.file == nil {
		data, err := initProgram()
		if err != nil {
			return nil, err
		}
		defer forgetProgram()
		if program.file, err = linux.Memfd("init", unsafe.Slice(unsafe.StringData(data), len(data)), true); err != nil {
			return nil, err
		}
	}
	return linux.DupAbove(program.file, 3)
}

// Release gives back the memory that is kept to make the next process faster.
func Release() {
	program.Lock()
	defer program.Unlock()
	program.file.Close() // an error if it is nil
	program.file = nil
}

// add makes f, which l now owns, a file of the init.
func (l *launch) add(name string, f *os.File) {
	if l.files == nil {
		l.files = map[string]*os.File{}
	}
	l.files[name] = f
	l.owns = append(l.owns, f)
}

func (l *launch) close() {
	for _, f := range l.owns {
		f.Close()
	}
	if l.conn != nil {
		l.conn.Close()
	}
}

// run starts the process. It returns when the init waits to be started, or,
// for a joining one, has executed its program. If it fails no process is left.
func (l *launch) run(ctx context.Context) (_ *Process, err error) {
	defer l.close()
	pid, err := l.exec()
	if err != nil {
		return nil, err
	}
	p := &Process{Pid: pid}
	// A caller that gives up makes the init end the conversation.
	stop := context.AfterFunc(ctx, func() { unix.Kill(pid, unix.SIGKILL) })
	defer func() {
		if !stop() && err != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}()
	defer func() {
		if err != nil {
			unix.Kill(pid, unix.SIGKILL)
			unix.Wait4(pid, nil, 0, nil) // ECHILD: the caller's reaper had it
			if p.Console != nil {
				p.Console.Close()
			}
		}
	}()
	if l.prepared != nil {
		if err := l.prepared(pid); err != nil {
			return nil, err
		}
	}
	if err := l.configure(); err != nil {
		return nil, err
	}
	if err := l.converse(p); err != nil {
		return nil, err
	}
	return p, nil
}

// idle keeps Go's monitor thread in the init from waking every 20 microseconds
// to find nothing. The user's process does not get it.
const idle = time.Millisecond

func (l *launch) exec() (int, error) {
	exe, err := openProgram()
	if err != nil {
		return 0, err
	}
	defer exe.Close()
	ours, theirs, err := linux.SocketPair("init")
	if err != nil {
		return 0, err
	}
	defer theirs.Close()
	l.conn = protocol.NewConn(ours)
	stdio, err := l.openStdio()
	if err != nil {
		return 0, err
	}
	// The others are caught by this program, and so become the default ones. Go
	// leaves 32 to 34, which the libraries of C use, as they are.
	l.fork.Default(unix.SIGHUP, unix.SIGINT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT, 32, 33, 34)
	// One thread runs Go in the init; a second hands the listener over. Go
	// need not keep the files open in which it finds CPU limits.
	env := []string{"GOMAXPROCS=1", "GODEBUG=containermaxprocs=0,updatemaxprocs=0", "GOGC=off"}
	if l.init.Seccomp != nil && l.init.Seccomp.Listen {
		env[0] = "GOMAXPROCS=2"
	}
	l.fork.TimerSlack(idle)
	if !l.init.Join || !hasAffinity(l.spec) {
		l.fork.AllProcessors()
	}
	l.debug("nsexec container setup")
	pid, err := l.fork.Exec(exe, []string{"init"}, env, append(stdio, theirs))
	if err == nil {
		l.debug("child process in init()")
	}
	return pid, err
}

// debug logs how far the start is. The words are those of runc 1.5, by which
// people, and its own tests, find out where a start stopped.
func (l *launch) debug(text string) {
	if l.log != nil {
		l.log.Debug(text)
	}
}

func (l *launch) openStdio() ([]*os.File, error) {
	stdio := make([]*os.File, 3)
	for i := range stdio {
		stdio[i] = l.stdio[i]
		if stdio[i] != nil && !l.spec.Terminal {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		l.owns = append(l.owns, null)
		stdio[i] = null
	}
	return stdio, nil
}

// configure sends the configuration and the files of the init.
func (l *launch) configure() error {
	data, err := plainjson.Marshal(&l.init)
	if err != nil {
		return err
	}
	config, err := linux.Memfd("config", data, false)
	if err != nil {
		return err
	}
	l.add(protocol.FileConfig, config)
	m := protocol.Message{Kind: protocol.Config}
	var files []*os.File
	for name, f := range l.files {
		m.Names = append(m.Names, name)
		files = append(files, f)
	}
	for i, f := range l.lent {
		m.Names = append(m.Names, fmt.Sprint(protocol.FileExtra, i))
		files = append(files, f)
	}
	if len(files) > linux.MaxFiles {
		return fmt.Errorf("%d files for one process are too many", len(files))
	}
	return l.conn.Send(m, files...)
}

// converse follows the init to its end of the protocol.
func (l *launch) converse(p *Process) error {
	for {
		m, files, err := l.conn.Receive()
		if err != nil {
			return fmt.Errorf("init process %d ended before it was ready: %w", p.Pid, err)
		}
		switch m.Kind {
		case protocol.Hooks:
			if err := l.hooks(p.Pid); err != nil {
				return err
			}
			err = l.conn.Send(protocol.Message{Kind: protocol.Resume})
		case protocol.Mount:
			err = l.sendTree(p.Pid, m.Index)
		case protocol.Console:
			err = l.takeConsole(p, files[0])
		case protocol.Notify:
			err = l.sendListener(p.Pid, files[0])
		case protocol.Failed:
			return l.initError(m)
		case protocol.Ready:
			return l.executed()
		}
		if err != nil {
			return err
		}
	}
}

// initError is what stopped the init. A process that joins says nothing of
// the init, for that is not what its user sees.
func (l *launch) initError(m protocol.Message) error {
	if l.init.Join {
		return errors.New(m.Error)
	}
	return fmt.Errorf("error during container init: %w", errors.New(m.Error))
}

// executed waits, for a joining init, until it has executed its program.
func (l *launch) executed() error {
	if !l.init.Join {
		l.debug("init: closing the pipe to signal completion")
		return nil
	}
	l.debug("setns_init: about to exec")
	m, _, err := l.conn.Receive()
	if err == nil {
		return l.initError(m)
	}
	return nil // the exec has closed the socket
}

func (l *launch) takeConsole(p *Process, master *os.File) error {
	if l.console == nil {
		p.Console = master
		return nil
	}
	defer master.Close()
	// The name is what runc sends along; receivers show it.
	if err := linux.Send(l.console, []byte(master.Name()), master); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	return nil
}

// setSeccomp compiles the filter of a process.
func (l *launch) setSeccomp(s *specs.LinuxSeccomp) error {
	prog, err := seccomp.Compile(s)
	if err != nil || len(prog.Filter) == 0 {
		return err
	}
	size := len(prog.Filter) * int(unsafe.Sizeof(prog.Filter[0]))
	l.filter = &prog
	l.init.Seccomp = &protocol.Seccomp{
		Filter: unsafe.Slice((*byte)(unsafe.Pointer(&prog.Filter[0])), size), Flags: prog.Flags, Listen: prog.Notify,
	}
	return nil
}

// sendListener gives a seccomp listener to the agent at its socket, with the
// state that the runtime spec defines (config-linux.md, "Container Process
// State").
func (l *launch) sendListener(pid int, listener *os.File) error {
	defer listener.Close()
	data, err := plainjson.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid,
		Metadata: l.filter.ListenerMetadata, State: *l.state(pid),
	})
	if err != nil {
		return err
	}
	socket, err := linux.Connect(l.filter.ListenerPath)
	if err != nil {
		return fmt.Errorf("failed to connect with seccomp agent: %w", err)
	}
	defer socket.Close()
	return linux.Send(socket, data, listener)
}
