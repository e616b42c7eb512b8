// SPDX-License-Identifier: Apache-2.0

package ttrpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/internal/pb"
)

// A Method serves one method of a service. It decodes the request and returns
// a pointer to the response.
type Method func(ctx context.Context, payload []byte) (response any, err error)

// Unary makes a Method of a function on messages.
func Unary[Req, Resp any](call func(context.Context, *Req) (*Resp, error)) Method {
	return func(ctx context.Context, payload []byte) (any, error) {
		var req Req
		if err := pb.Unmarshal(payload, &req); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		resp, err := call(ctx, &req)
		if err != nil {
			return nil, err // a nil *Resp in an interface would not be nil
		}
		return resp, nil
	}
}

// A Server answers calls. Its services are set before Serve and not changed.
type Server struct {
	Services map[string]map[string]Method // by service, then method
	Answered func()                       // called after every call, if set

	calls  sync.WaitGroup
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool // no call begins any more
}

// Serve answers the calls of every connection to l until l is closed, which
// is no error. Only processes of the same user may connect.
func (s *Server) Serve(l *net.UnixListener) error {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if !sameUser(c) {
			c.Close()
			continue
		}
		s.track(c, true)
		go s.serveConn(c)
	}
}

// Close waits until the calls in progress are answered, at most until ctx
// ends, and closes the connections.
func (s *Server) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// begin counts a call that Close waits for.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.calls.Add(1)
	}
	return !s.closed
}

func (s *Server) track(c net.Conn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[net.Conn]bool{}
	}
	if open {
		s.conns[c] = true
	} else {
		delete(s.conns, c)
	}
}

func sameUser(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return err == nil && cred != nil && int(cred.Uid) == os.Geteuid()
}

// serveConn reads requests until the peer hangs up, which ends the contexts of
// its calls.
func (s *Server) serveConn(c net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer s.track(c, false)
	defer c.Close()
	defer cancel()
	out := &writer{c: c}
	in := bufio.NewReaderSize(c, 512)
	for {
		f, err := readFrame(in)
		var large tooLarge
		if errors.As(err, &large) {
			out.answer(f.stream, nil, fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted))
			continue
		}
		if err != nil {
			return
		}
		if f.kind != typeRequest { // data of a stream that was refused
			continue
		}
		if !s.begin() {
			out.answer(f.stream, nil, fmt.Errorf("the server is closed: %w", errdefs.ErrUnavailable))
			continue
		}
		go func() {
			defer s.calls.Done()
			resp, err := s.call(ctx, f)
			out.answer(f.stream, resp, err)
			if s.Answered != nil {
				s.Answered()
			}
		}()
	}
}

func (s *Server) call(ctx context.Context, f frame) (any, error) {
	var req request
	if err := pb.Unmarshal(f.payload, &req); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	service, ok := s.Services[req.Service]
	if !ok {
		return nil, fmt.Errorf("service %s: %w", req.Service, errdefs.ErrNotImplemented)
	}
	method, ok := service[req.Method]
	if !ok || f.flags&flagRemoteOpen != 0 {
		return nil, fmt.Errorf("method %s of %s: %w", req.Method, req.Service, errdefs.ErrNotImplemented)
	}
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.Timeout))
		defer cancel()
	}
	return method(ctx, req.Payload)
}

// writer sends the answers of one connection, one at a time.
type writer struct {
	mu sync.Mutex
	c  net.Conn
}

// answer drops what cannot be sent: the reader of the connection sees that it
// is broken.
func (w *writer) answer(stream uint32, resp any, err error) {
	r := &response{Status: toStatus(err)}
	if resp != nil {
		r.Payload = pb.Marshal(resp)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err = writeFrame(w.c, frame{stream: stream, kind: typeResponse, payload: pb.Marshal(r)})
	var large tooLarge
	if errors.As(err, &large) {
		r = &response{Status: toStatus(fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted))}
		writeFrame(w.c, frame{stream: stream, kind: typeResponse, payload: pb.Marshal(r)})
	}
}
