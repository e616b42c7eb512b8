// SPDX-License-Identifier: Apache-2.0

// Package client speaks to the daemon over its gRPC socket.
//
// A Client acts in one namespace. Its methods named like services return the
// generated stubs; on top of them are the steps that need more than one call:
// pulling, unpacking, making a container, running a task. A call that is made
// under a context from WithLease keeps what it creates until that lease ends.
//
// Every error is of a kind of errdefs, never a gRPC status. The package
// contains no policy of a command line and imports nothing of the daemon.
package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"slipway/content/remote"
)

// Headers of every request.
const (
	namespaceHeader = "containerd-namespace"
	leaseHeader     = "containerd-lease"
)

// maxMessage is the largest message in bytes, as the daemon's default.
const maxMessage = 16 << 20

// Options says how to reach a daemon. The zero value is ready to use.
type Options struct {
	Namespace   string        // of every call; without one, only calls that need none work
	DialTimeout time.Duration // of one attempt to connect, 10 s if zero
}

// A Client is a connection to a daemon. It may be used by many goroutines.
type Client struct {
	conn *grpc.ClientConn
	ns   string
}

// Dial returns a client of the daemon that listens on the unix socket
// address. It connects at the first call, but fails at once if there is no
// such socket.
func Dial(ctx context.Context, address string, opts Options) (*Client, error) {
	path, err := filepath.Abs(strings.TrimPrefix(address, "unix://"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("cannot access socket %s: %w", path, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if opts.DialTimeout <= 0 {
		opts.DialTimeout = 10 * time.Second
	}
	c := &Client{ns: opts.Namespace}
	c.conn, err = grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: opts.DialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(c.unary),
		grpc.WithStreamInterceptor(c.stream),
	)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return c, nil
}

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

// Namespace is the one that every call acts in.
func (c *Client) Namespace() string { return c.ns }

// Conn is the connection, for services that have no method here.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Version is the stub of that service, as are the methods that follow.
func (c *Client) Version() versionapi.VersionClient { return versionapi.NewVersionClient(c.conn) }

func (c *Client) Introspection() introspectionapi.IntrospectionClient {
	return introspectionapi.NewIntrospectionClient(c.conn)
}

func (c *Client) Namespaces() namespacesapi.NamespacesClient {
	return namespacesapi.NewNamespacesClient(c.conn)
}

func (c *Client) Content() contentapi.ContentClient { return contentapi.NewContentClient(c.conn) }

// A Store is the content of the client's namespace.
type Store = remote.Store

// Store returns the content of the client's namespace.
func (c *Client) Store() *Store { return remote.New(c.conn) }

func (c *Client) Images() imagesapi.ImagesClient { return imagesapi.NewImagesClient(c.conn) }

func (c *Client) Containers() containersapi.ContainersClient {
	return containersapi.NewContainersClient(c.conn)
}

func (c *Client) Leases() leasesapi.LeasesClient { return leasesapi.NewLeasesClient(c.conn) }

func (c *Client) Snapshots() snapshotsapi.SnapshotsClient {
	return snapshotsapi.NewSnapshotsClient(c.conn)
}

func (c *Client) Diff() diffapi.DiffClient { return diffapi.NewDiffClient(c.conn) }

func (c *Client) Tasks() tasksapi.TasksClient { return tasksapi.NewTasksClient(c.conn) }

func (c *Client) Events() eventsapi.EventsClient { return eventsapi.NewEventsClient(c.conn) }

func (c *Client) Streaming() streamingapi.StreamingClient {
	return streamingapi.NewStreamingClient(c.conn)
}

func (c *Client) Transfer() transferapi.TransferClient { return transferapi.NewTransferClient(c.conn) }

func (c *Client) Mounts() mountsapi.MountsClient { return mountsapi.NewMountsClient(c.conn) }

func (c *Client) Sandboxes() sandboxapi.StoreClient { return sandboxapi.NewStoreClient(c.conn) }

func (c *Client) SandboxController() sandboxapi.ControllerClient {
	return sandboxapi.NewControllerClient(c.conn)
}

// Error turns a gRPC status into an error of a kind of errdefs with the text
// that the daemon gave. Other errors are returned as they are.
func Error(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	// The details repeat the text for each error that was wrapped.
	return errgrpc.ToNative(status.Error(s.Code(), s.Message()))
}

// outgoing puts the headers on a call.
func (c *Client) outgoing(ctx context.Context) context.Context {
	var kv []string
	if c.ns != "" {
		kv = append(kv, namespaceHeader, c.ns)
	}
	if id, ok := ctx.Value(leaseKey{}).(string); ok {
		kv = append(kv, leaseHeader, id)
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return Error(invoke(c.outgoing(ctx), method, req, reply, cc, opts...))
}

func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(c.outgoing(ctx), desc, cc, method, opts...)
	if err != nil {
		return nil, Error(err)
	}
	return nativeStream{s}, nil
}

// nativeStream converts the errors of a stream.
type nativeStream struct{ grpc.ClientStream }

func (s nativeStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, Error(err)
}

func (s nativeStream) CloseSend() error    { return Error(s.ClientStream.CloseSend()) }
func (s nativeStream) SendMsg(m any) error { return Error(s.ClientStream.SendMsg(m)) }
func (s nativeStream) RecvMsg(m any) error { return Error(s.ClientStream.RecvMsg(m)) }
