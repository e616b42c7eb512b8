// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/ttrpc"
	"slipway/linux"
)

// shutdownTimeout is how long the end may take: answering the calls in
// progress and sending the last events.
const shutdownTimeout = 5 * time.Second

// A shim is idle for most of its life, and there is one for every container:
// garbage is collected early, and returned to the kernel once no call has come
// for a while.
const (
	gcPercent    = 20
	trimAfter    = 500 * time.Millisecond
	monitorSlack = 500 * time.Microsecond
)

// listenerFD is the socket that start passes on.
const listenerFD = 3

// serve is the shim proper: it answers the daemon until it is shut down.
func serve(c Config, l *net.UnixListener) (err error) {
	log := openLog(c)
	if err := becomeParent(); err != nil {
		return err
	}
	defer os.Remove(l.Addr().String())
	if err := linux.CalmMonitor(monitorSlack); err != nil {
		log.Debug("timers of the runtime stay exact", "error", err)
	}

	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	background, stop := context.WithCancel(context.Background())
	defer stop()
	s := &service{
		ns: c.Namespace, events: newPublisher(c.Namespace, c.TTRPCAddress, log),
		reaper: newReaper(), log: log, shutdown: cancel, containers: map[string]*container{}, making: map[string]bool{},
	}
	go s.reaper.serve(background)
	go s.events.serve(background)

	debug.SetGCPercent(gcPercent)
	trim := time.AfterFunc(trimAfter, trimMemory)
	defer trim.Stop()
	server := &ttrpc.Server{Answered: func() { trim.Reset(trimAfter) }, Services: map[string]map[string]ttrpc.Method{
		"containerd.task.v2.Task": s.methods(),
		"containerd.task.v3.Task": s.methods(),
	}}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	l.Close()
	s.close(server)
	return err
}

// becomeParent sets what the process needs to be the parent of a container's.
func becomeParent() error {
	// Caught and dropped: an ignored signal would stay ignored in containers.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE, unix.SIGHUP)
	// What the C library's posix_spawn ignores in its children, such as a
	// daemon that make started.
	if err := linux.DefaultAction(32, 33, 34); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err)
	}
	return nil
}

// close lets the calls and events that are under way finish.
func (s *service) close(server *ttrpc.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	s.mu.Lock()
	for _, c := range s.containers {
		c.stop()
	}
	s.mu.Unlock()
	s.events.flush(ctx)
	server.Close(ctx)
}

func inheritedListener() (*net.UnixListener, error) {
	f := os.NewFile(listenerFD, "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d is no socket to serve on: %w", listenerFD, err)
	}
	unix, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("descriptor %d is a socket of %s, not unix", listenerFD, l.Addr().Network())
	}
	unix.SetUnlinkOnClose(false) // serve removes it, even if the listener was handed over
	return unix, nil
}

// openLog makes the bundle's log, a FIFO that the daemon reads, this process's
// standard error. It is open for reading too, so that it may be written
// without a daemon; when it is full, lines are lost.
func openLog(c Config) *slog.Logger {
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	if fd, err := unix.Open("log", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		unix.Dup3(fd, 2, 0)
		unix.Close(fd)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
