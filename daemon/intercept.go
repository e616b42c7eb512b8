// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"slipway/internal/ident"
)

// The headers that say what a request acts in.
const (
	namespaceHeader = "containerd-namespace"
	leaseHeader     = "containerd-lease"
	ttrpcNamespace  = "containerd-namespace-ttrpc"
)

// noNamespace are the services, and methods, that act in none, or in those
// that their requests name.
var noNamespace = []string{
	"/containerd.services.namespaces.v1.Namespaces/",
	"/containerd.services.version.v1.Version/",
	"/containerd.services.introspection.v1.Introspection/",
	"/containerd.services.events.v1.Events/Subscribe",
	"/containerd.services.events.v1.Events/Forward",
	"/containerd.services.events.ttrpc.v1.Events/",
	"/grpc.health.v1.Health/",
}

func needsNamespace(method string) bool {
	for _, prefix := range noNamespace {
		if strings.HasPrefix(method, prefix) {
			return false
		}
	}
	return true
}

// scoped gives a handler the scope of its request. It fails if the method
// needs a namespace that is missing or malformed.
func scoped(ctx context.Context, method, namespace, lease string) (context.Context, error) {
	s := ident.Scope{Namespace: ident.Namespace(namespace), Lease: lease}
	if needsNamespace(method) {
		if err := s.Namespace.Check(); err != nil {
			return ctx, err
		}
	}
	return ident.WithScope(ctx, s), nil
}

func grpcScope(ctx context.Context, method string) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return scoped(ctx, method, first(md.Get(namespaceHeader)), first(md.Get(leaseHeader)))
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// guard runs a handler. Its error becomes a status, and so does its panic,
// which must not take other clients' requests along.
func (d *Daemon) guard(method string, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("panic in a request", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: panic: %v: %w", method, p, errdefs.ErrInternal)
		}
		err = toStatus(err)
	}()
	return fn()
}

// toStatus makes a status of an error's text and its one kind. Were the status
// to tell of every error that is wrapped, clients of upstream would print
// each after the text.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return errgrpc.ToGRPC(flat{err.Error(), errdefs.Resolve(err)})
}

// flat is an error of one kind.
type flat struct {
	text string
	kind error
}

func (f flat) Error() string { return f.text }
func (f flat) Unwrap() error { return f.kind }

// unary is around every gRPC call with one answer.
func (d *Daemon) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	done := d.calls.begin("unary", info.FullMethod)
	err = d.guard(info.FullMethod, func() error {
		ctx, err := grpcScope(ctx, info.FullMethod)
		if err != nil {
			return err
		}
		resp, err = next(ctx, req)
		return err
	})
	done(err)
	return resp, err
}

// stream is around every other gRPC call.
func (d *Daemon) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	done := d.calls.begin(streamKind(info), info.FullMethod)
	err := d.guard(info.FullMethod, func() error {
		ctx, err := grpcScope(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return next(srv, scopedStream{ss, ctx})
	})
	done(err)
	return err
}

func streamKind(info *grpc.StreamServerInfo) string {
	switch {
	case info.IsClientStream && info.IsServerStream:
		return "bidi_stream"
	case info.IsClientStream:
		return "client_stream"
	}
	return "server_stream"
}

type scopedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s scopedStream) Context() context.Context { return s.ctx }

// ttrpcUnary is around the calls of shims.
func (d *Daemon) ttrpcUnary(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (resp any, err error) {
	err = d.guard(info.FullMethod, func() error {
		namespace, _ := ttrpc.GetMetadataValue(ctx, ttrpcNamespace)
		ctx, err := scoped(ctx, info.FullMethod, namespace, "")
		if err != nil {
			return err
		}
		resp, err = next(ctx, unmarshal)
		return err
	})
	return resp, err
}
