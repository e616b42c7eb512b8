// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"slipway/internal/ident"
)

// conn makes calls under the headers of their context. Its errors have a kind
// and name the component.
type conn struct {
	grpc.ClientConnInterface
	component string
	header    func(context.Context) context.Context
}

func (c conn) native(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("%s: %w", c.component, errgrpc.ToNative(err))
}

// Invoke implements grpc.ClientConnInterface.
func (c conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.native(c.ClientConnInterface.Invoke(c.header(ctx), method, args, reply, opts...))
}

// NewStream implements grpc.ClientConnInterface.
func (c conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.ClientConnInterface.NewStream(c.header(ctx), desc, method, opts...)
	if err != nil {
		return nil, c.native(err)
	}
	return nativeStream{s, c}, nil
}

// nativeStream converts the errors of a stream.
type nativeStream struct {
	grpc.ClientStream
	conn conn
}

func (s nativeStream) CloseSend() error    { return s.conn.native(s.ClientStream.CloseSend()) }
func (s nativeStream) SendMsg(m any) error { return s.conn.native(s.ClientStream.SendMsg(m)) }
func (s nativeStream) RecvMsg(m any) error { return s.conn.native(s.ClientStream.RecvMsg(m)) }

// namespaced passes the namespace of a request on, and not its lease, which
// another store does not know.
func namespaced(ctx context.Context) context.Context {
	s, err := ident.ScopeOf(ctx)
	if err != nil { // the daemon's own work, such as a collection
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", string(s.Namespace))
}
