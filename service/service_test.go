// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"slipway/content"
	"slipway/event"
	"slipway/internal/bytestream"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/snapshot"
)

// world is a server with real stores and a connection to it.
type world struct {
	db     *meta.DB
	events *event.Exchange
	native *snapshot.Store
	gc     *meta.Scheduler
	server *grpc.Server
	conn   *grpc.ClientConn
}

// registrar is a service of this package.
type registrar interface{ Register(grpc.ServiceRegistrar) }

// newWorld starts a server with the services that make returns.
func newWorld(t *testing.T, make func(*world) []registrar) *world {
	t.Helper()
	w := &world{events: event.New()}
	dir := t.TempDir()
	local, err := content.Open(filepath.Join(dir, "content"))
	fatal(t, err)
	w.native, err = snapshot.OpenNative(filepath.Join(dir, "native"))
	fatal(t, err)
	t.Cleanup(func() { w.native.Close() })
	w.db, err = meta.Open(filepath.Join(dir, "meta.db"), meta.Options{NoSync: true}, local,
		map[string]snapshot.Snapshotter{"native": w.native}, w.events)
	fatal(t, err)
	t.Cleanup(func() { w.db.Close() })
	w.collect(t)
	w.serve(t, make(w))
	return w
}

// collect runs the scheduler of collections.
func (w *world) collect(t *testing.T) {
	w.gc = meta.NewScheduler(w.db, meta.SchedulerConfig{PauseThreshold: 0.5, StartupDelay: time.Hour})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.gc.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-done })
}

func (w *world) serve(t *testing.T, services []registrar) {
	w.server = grpc.NewServer(grpc.ForceServerCodecV2(bytestream.Codec()), grpc.WaitForHandlers(true), // they use the stores
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(withScope(ctx), req)
			return resp, errgrpc.ToGRPC(err)
		}),
		grpc.StreamInterceptor(func(s any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return errgrpc.ToGRPC(h(s, scoped{stream}))
		}))
	for _, s := range services {
		s.Register(w.server)
	}
	RegisterHealth(w.server)
	l := bufconn.Listen(1 << 20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.server.Serve(l)
	}()
	var err error
	w.conn, err = grpc.NewClient("passthrough:test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	fatal(t, err)
	t.Cleanup(func() {
		w.conn.Close()
		w.server.Stop()
		<-done
	})
}

// withScope does what the daemon's interceptors do.
func withScope(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(key string) string {
		if v := md.Get(key); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	return ident.WithScope(ctx, ident.Scope{Namespace: ident.Namespace(first("containerd-namespace")), Lease: first("containerd-lease")})
}

type scoped struct{ grpc.ServerStream }

func (s scoped) Context() context.Context { return withScope(s.ServerStream.Context()) }

// in is a request's context in a namespace, with a deadline that only a
// failure meets.
func in(t *testing.T, ns string) context.Context {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "containerd-namespace", ns), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func leased(ctx context.Context, lease string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-lease", lease)
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode checks the status of an answer.
func wantCode(t testing.TB, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: code %v, want %v (%v)", what, got, want, err)
	}
}

// wantText checks an error text that clients match.
func wantText(t testing.TB, err error, want string) {
	t.Helper()
	if got := status.Convert(err).Message(); got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

// stores are the services that need nothing but the stores.
func stores(w *world) []registrar {
	return []registrar{
		NewNamespaces(w.db), NewImages(w.db, w.gc), NewLeases(w.db, w.gc), NewContainers(w.db), NewContent(w.db),
		NewSnapshots(w.db), NewDiff(false, Walking{DB: w.db}), NewEvents(w.events), NewSandboxStore(w.db), NewVersion("v1", "abc"),
	}
}

func TestTheServerIsHealthy(t *testing.T) {
	w := newWorld(t, stores)
	r, err := healthapi.NewHealthClient(w.conn).Check(in(t, ""), &healthapi.HealthCheckRequest{})
	fatal(t, err)
	if r.Status != healthapi.HealthCheckResponse_SERVING {
		t.Errorf("health is %v", r.Status)
	}
}

// listen opens a unix socket and returns a function that connects to it.
func listen(t *testing.T) (net.Listener, func() net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	fatal(t, err)
	return l, func() net.Conn {
		c, err := net.Dial("unix", path)
		fatal(t, err)
		return c
	}
}
