// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/ident"
)

// What can be wrong with a shim, as opposed to what it answers.
var (
	errGone  = fmt.Errorf("the shim is gone: %w", errdefs.ErrUnavailable)
	errStuck = fmt.Errorf("the shim does not answer: %w", context.DeadlineExceeded)
)

// IsGone reports whether a call failed because the shim has died, or is dying.
func IsGone(err error) bool { return errors.Is(err, errGone) }

// A conn carries calls to a shim.
type conn interface {
	call(ctx context.Context, ns, service, method string, req, resp proto.Message) error
	Close() error
}

// dial connects to a shim; gone is called once, when the connection ends.
func dial(ctx context.Context, e Endpoint, gone func()) (conn, error) {
	switch e.Protocol {
	case "ttrpc":
		c, err := dialAddress(ctx, e.Address)
		if err != nil {
			return nil, err
		}
		return ttrpcConn{ttrpc.NewClient(c, ttrpc.WithOnClose(gone))}, nil
	case "grpc":
		if e.Version < 3 {
			return nil, fmt.Errorf("task API version %d over gRPC: %w", e.Version, errdefs.ErrNotImplemented)
		}
		return dialGRPC(ctx, e.Address, gone)
	}
	return nil, fmt.Errorf("shim protocol %q: %w", e.Protocol, errdefs.ErrNotImplemented)
}

func dialAddress(ctx context.Context, address string) (net.Conn, error) {
	scheme, path, ok := strings.Cut(address, "://")
	switch {
	case !ok: // the abstract sockets of old shims
		path = "@" + address
	case scheme != "unix":
		return nil, fmt.Errorf("shim address %s: scheme %s: %w", address, scheme, errdefs.ErrNotImplemented)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

type ttrpcConn struct{ *ttrpc.Client }

func (c ttrpcConn) call(ctx context.Context, ns, service, method string, req, resp proto.Message) error {
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{"containerd-namespace-ttrpc": {ns}})
	return c.Call(ctx, service, method, req, resp)
}

type grpcConn struct{ *grpc.ClientConn }

func (c grpcConn) call(ctx context.Context, ns, service, method string, req, resp proto.Message) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", ns)
	return c.Invoke(ctx, "/"+service+"/"+method, req, resp)
}

func dialGRPC(ctx context.Context, address string, gone func()) (conn, error) {
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialAddress), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, err
	}
	c.Connect()
	for s := c.GetState(); s != connectivity.Ready; s = c.GetState() {
		if s == connectivity.TransientFailure || !c.WaitForStateChange(ctx, s) {
			c.Close()
			return nil, fmt.Errorf("shim address %s: connection is %s: %w", address, s, errdefs.ErrUnavailable)
		}
	}
	go func() { // ends with the connection, which Close ends
		c.WaitForStateChange(context.Background(), connectivity.Ready)
		gone()
	}()
	return grpcConn{c}, nil
}

// Call makes one call to a service of the shim and waits for the answer up to
// timeout, which 0 leaves to ctx. What the shim answers is returned as it is:
// it names its object, and clients match its text. Only where the shim fails
// to answer, the error says in which call.
func (s *Shim) Call(ctx context.Context, service, method string, timeout time.Duration, req, resp proto.Message) error {
	limited := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err := s.conn.call(limited, string(s.b.ns), service, method, req, resp)
	if err == nil {
		return nil
	}
	stage := s.kind + " " + s.b.id + ": " + strings.ToLower(method)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", stage, ctx.Err())
	case limited.Err() != nil:
		return fmt.Errorf("%s: %w after %s", stage, errStuck, timeout)
	case s.isGone(err):
		return fmt.Errorf("%s: %w", stage, errGone)
	}
	return errgrpc.ToNative(err)
}

// isGone tells a broken connection from an answer. A gRPC connection breaks
// with a status that an answer may have too, a moment before it says so.
func (s *Shim) isGone(err error) bool {
	if errors.Is(err, ttrpc.ErrClosed) {
		return true
	}
	if _, ok := s.conn.(grpcConn); !ok || status.Code(err) != codes.Unavailable {
		return false
	}
	select {
	case <-s.gone:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// task calls the task service in the version that the shim speaks. The
// messages of the versions are the same.
func (s *Shim) task(ctx context.Context, method string, timeout time.Duration, req, resp proto.Message) error {
	service := "containerd.task.v2.Task"
	if s.Endpoint().Version >= 3 {
		service = "containerd.task.v3.Task"
	}
	return s.Call(ctx, service, method, timeout, req, resp)
}

// call makes an ordinary call to the shim of a task.
func (m *Manager) call(ctx context.Context, ns ident.Namespace, id, method string, req, resp proto.Message) error {
	s, err := m.shims.Get(ns, id)
	if err != nil {
		return err
	}
	return s.task(ctx, method, m.cfg.Timeouts.Call, req, resp)
}

// nothing is the answer of a method that returns none.
func nothing() proto.Message { return &emptypb.Empty{} }

// states asks shims side by side for their tasks, so that those which do not
// answer cost one deadline together. Tasks that end meanwhile are left out.
func (m *Manager) states(ctx context.Context, shims []*Shim) []State {
	slices.SortFunc(shims, func(a, b *Shim) int { return strings.Compare(a.b.id, b.b.id) })
	found := make([]*State, len(shims))
	var wg sync.WaitGroup
	for i, s := range shims {
		wg.Go(func() {
			st, err := m.state(ctx, s, "")
			if err == nil {
				found[i] = &st
			} else if !errdefs.IsNotFound(err) && ctx.Err() == nil {
				m.cfg.Log.Error("task: list", "namespace", s.b.ns, "id", s.b.id, "error", err)
			}
		})
	}
	wg.Wait()
	var all []State
	for _, st := range found {
		if st != nil {
			all = append(all, *st)
		}
	}
	return all
}
