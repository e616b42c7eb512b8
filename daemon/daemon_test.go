// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	shimevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/client"
	"slipway/content"
	"slipway/internal/fault"
	"slipway/internal/version"
)

// deadline bounds every wait of these tests.
const deadline = 60 * time.Second

// configAt is a configuration with everything in dir. Snapshots are made
// below the temporary directory, so most of what the daemon does works there.
func configAt(dir string) *Config {
	c := DefaultConfig()
	c.Root, c.State = filepath.Join(dir, "root"), filepath.Join(dir, "state")
	c.SetAddress(filepath.Join(dir, "c.sock"))
	for _, server := range []string{".grpc", ".ttrpc", ".debug"} {
		switch o := c.Plugins[serverType+server].(type) {
		case *grpcOptions:
			o.UID, o.GID = os.Getuid(), os.Getgid()
		case *ttrpcOptions:
			o.UID, o.GID = os.Getuid(), os.Getgid()
		}
	}
	options[shimOptions](c, shimURI).SocketDir = filepath.Join(dir, "s")
	options[optOptions](c, "io.containerd.internal.v1.opt").Path = filepath.Join(dir, "opt")
	return c
}

// shortDir is a temporary directory whose sockets' paths are short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start runs a daemon until the test ends and returns it with a client in the
// namespace n. The returned function stops it earlier.
func start(t *testing.T, c *Config) (*Daemon, *client.Client, func()) {
	t.Helper()
	d, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	stop := func() {
		cancel()
		select {
		case err, ok := <-ended:
			if ok && err != nil {
				t.Errorf("daemon ended with %v", err)
			}
		case <-time.After(deadline):
			t.Error("daemon does not end")
		}
	}
	once := func() { stop(); stop = func() {} }
	t.Cleanup(func() { once() })
	return d, dial(t, c.Address(), "n"), func() { once() }
}

func dial(t *testing.T, address, namespace string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), address, client.Options{Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func put(ctx context.Context, s content.Store, ref, text string) error {
	w, err := s.Writer(ctx, content.WriterOpts{Ref: ref})
	if err != nil {
		return err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, text[st.Offset:]); err != nil {
		return err
	}
	return w.Commit(ctx, int64(len(text)), digest.FromString(text), nil)
}

func TestTheDaemonServesItsAPI(t *testing.T) {
	d, c, _ := start(t, configAt(shortDir(t)))
	v, err := c.Version().Version(t.Context(), &emptypb.Empty{})
	if err != nil || v.Version != version.Version || v.Revision != version.Revision {
		t.Errorf("version %v, %v", v, err)
	}
	h, err := grpc_health_v1.NewHealthClient(c.Conn()).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || h.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
	if err := put(t.Context(), c.Store(), "r", "hello"); err != nil {
		t.Fatal(err)
	}
	blob, err := c.Store().ReaderAt(t.Context(), digest.FromString("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	b := make([]byte, 5)
	if _, err := blob.ReadAt(b, 0); err != nil && err != io.EOF || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	ns, err := c.Namespaces().List(t.Context(), &namespacesapi.ListNamespacesRequest{})
	if err != nil || len(ns.Namespaces) != 1 || ns.Namespaces[0].Name != "n" {
		t.Errorf("namespaces %v, %v", ns, err)
	}
	for path, mode := range map[string]os.FileMode{
		d.config.Root: 0o700, d.config.State: 0o711, d.temp(): 0o700, d.config.Address(): 0o660 | os.ModeSocket,
		filepath.Join(d.config.Root, contentType+".content"): 0o755, filepath.Join(d.config.Root, metaURI): 0o711,
		filepath.Join(d.config.Root, snapshotterType+".overlayfs"): 0o700, filepath.Join(d.config.State, taskURI): 0o711,
		filepath.Join(filepath.Dir(d.config.Root), "opt/bin"): 0o711,
	} {
		if fi, err := os.Stat(path); err != nil || fi.Mode()&^os.ModeDir != mode {
			t.Errorf("%s: %v, %v; want %v", path, fi.Mode(), err, mode)
		}
	}
}

func TestPluginsAreListedWithTheirOutcome(t *testing.T) {
	conf := configAt(shortDir(t))
	conf.DisabledPlugins = []string{snapshotterType + ".native"}
	_, c, _ := start(t, conf)
	list := func(filters ...string) map[string]*introspectionapi.Plugin {
		r, err := c.Introspection().Plugins(t.Context(), &introspectionapi.PluginsRequest{Filters: filters})
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]*introspectionapi.Plugin{}
		for _, p := range r.Plugins {
			m[p.Type+"."+p.ID] = p
		}
		return m
	}
	all := list()
	if _, ok := all[snapshotterType+".native"]; ok {
		t.Error("a disabled component is listed")
	}
	if p := all[metaURI]; p == nil || p.InitErr != nil || p.Exports["path"] == "" || !slices.Contains(p.Requires, snapshotterType) {
		t.Errorf("metadata is %v", p)
	}
	if p := all[serverType+".grpc-tcp"]; p == nil || codes.Code(p.InitErr.GetCode()) != codes.Unimplemented {
		t.Errorf("a server without an address is %v", p)
	}
	if p := all["io.containerd.grpc.v1.cri"]; p == nil || !strings.Contains(p.InitErr.GetMessage(), "not a part of this daemon: skip plugin") {
		t.Errorf("what there is not is %v", p)
	}
	if all["io.containerd.snapshotter.v1.aufs"] != nil {
		t.Error("what nobody has is listed")
	}
	if p := all[snapshotterType+".overlayfs"]; p == nil || len(p.Platforms) != 1 || p.Platforms[0].OS != "linux" || p.Exports["root"] == "" {
		t.Errorf("overlayfs is %v", p)
	}
	if got := list("type==" + snapshotterType); len(got) != 6 || got[metaURI] != nil {
		t.Errorf("the filter gives %v", got)
	}
	if p := all[snapshotterType+".blockfile"]; p == nil || !strings.Contains(p.InitErr.GetMessage(), "no scratch file generator: skip plugin") {
		t.Errorf("blockfile without a scratch file is %v", p)
	}
	if p := all["io.containerd.monitor.container.v1.restart"]; p == nil || !slices.Contains(p.Capabilities, "on-failure") {
		t.Errorf("restart monitor is %v", p)
	}
}

// Who asks for traces is told that there are none.
func TestTracesAreNotPromised(t *testing.T) {
	for _, c := range []struct {
		name, value, disabled string
		skipped               bool
		text                  string
	}{
		{"", "", "", true, "tracing endpoint not configured"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@localhost:4318", "", false, "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build sends no traces"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318", "", false, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318", "true", true, "OTEL_SDK_DISABLED=true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318", "maybe", false, "OTEL_SDK_DISABLED"},
	} {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
		t.Setenv("OTEL_SDK_DISABLED", c.disabled)
		if c.name != "" {
			t.Setenv(c.name, c.value)
		}
		_, client, stop := start(t, configAt(shortDir(t)))
		r, err := client.Introspection().Plugins(t.Context(), &introspectionapi.PluginsRequest{Filters: []string{"id==otlp", "id==tracing"}})
		if err != nil || len(r.Plugins) != 2 {
			t.Fatalf("plugins %v, %v", r, err)
		}
		for _, p := range r.Plugins {
			if skipped := codes.Code(p.InitErr.GetCode()) == codes.Unimplemented; skipped != c.skipped || !strings.Contains(p.InitErr.GetMessage(), c.text) {
				t.Errorf("%s, disabled %q: %s is %v", c.name, c.disabled, p.ID, p.InitErr)
			}
			if strings.Contains(p.InitErr.GetMessage(), "secret") {
				t.Error("the address is shown")
			}
		}
		stop()
	}
}

func TestARequestNeedsANamespace(t *testing.T) {
	conf := configAt(shortDir(t))
	_, _, _ = start(t, conf)
	none, bad := dial(t, conf.Address(), ""), dial(t, conf.Address(), "a/b")
	if _, err := none.Containers().List(t.Context(), &containersapi.ListContainersRequest{}); !errdefs.IsFailedPrecondition(err) ||
		!strings.Contains(err.Error(), "namespace is required") {
		t.Errorf("without one: %v", err)
	}
	if err := none.Store().Walk(t.Context(), nil); !errdefs.IsFailedPrecondition(err) { // a stream
		t.Errorf("a stream without one: %v", err)
	}
	if _, err := bad.Containers().List(t.Context(), &containersapi.ListContainersRequest{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a malformed one: %v", err)
	}
	if _, err := none.Namespaces().List(t.Context(), &namespacesapi.ListNamespacesRequest{}); err != nil {
		t.Errorf("namespaces: %v", err)
	}
	if _, err := none.Version().Version(t.Context(), &emptypb.Empty{}); err != nil {
		t.Errorf("version: %v", err)
	}
}

func TestWhatIsMadeUnderALeaseBelongsToIt(t *testing.T) {
	_, c, _ := start(t, configAt(shortDir(t)))
	ctx, done, err := c.WithLease(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if err := put(ctx, c.Store(), "r", "x"); err != nil {
		t.Fatal(err)
	}
	leases, err := c.Leases().List(t.Context(), &leasesapi.ListRequest{})
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases %v, %v", leases, err)
	}
	got, err := c.Leases().ListResources(t.Context(), &leasesapi.ListResourcesRequest{ID: leases.Leases[0].ID})
	if err != nil || len(got.Resources) != 1 || got.Resources[0].ID != digest.FromString("x").String() {
		t.Errorf("resources %v, %v", got, err)
	}
}

// A panic answers its own request and no other.
func TestAPanicIsAnError(t *testing.T) {
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	_, err := d.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/grpc.health.v1.Health/Check"}, func(context.Context, any) (any, error) {
		panic("wrong")
	})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("unary: %v", err)
	}
	err = d.stream(nil, fakeStream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: "/grpc.health.v1.Health/Watch"}, func(any, grpc.ServerStream) error {
		panic("wrong")
	})
	if status.Code(err) != codes.Internal {
		t.Errorf("stream: %v", err)
	}
	_, err = d.ttrpcUnary(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: "/containerd.services.events.ttrpc.v1.Events/Forward"},
		func(context.Context, func(any) error) (any, error) { panic("wrong") })
	if status.Code(err) != codes.Internal {
		t.Errorf("ttrpc: %v", err)
	}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

func TestErrorsKeepTheirKind(t *testing.T) {
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	for _, kind := range []error{errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition,
		errdefs.ErrUnavailable, errdefs.ErrNotImplemented, errdefs.ErrOutOfRange, errdefs.ErrAborted, errdefs.ErrDataLoss,
		errdefs.ErrPermissionDenied, errdefs.ErrResourceExhausted, errdefs.ErrUnauthenticated, errdefs.ErrInternal, context.Canceled,
		context.DeadlineExceeded} {
		err := d.guard("m", func() error { return errors.Join(kind) })
		if got := errgrpc.ToNative(err); !errors.Is(got, kind) {
			t.Errorf("%v arrives as %v", kind, got)
		}
	}
}

func TestShimsPublishOverTTRPC(t *testing.T) {
	conf := configAt(shortDir(t))
	_, c, _ := start(t, conf)
	sub, err := c.Events().Subscribe(t.Context(), &eventsapi.SubscribeRequest{Filters: []string{"topic==/tasks/exit"}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", conf.Address()+".ttrpc")
	if err != nil {
		t.Fatal(err)
	}
	shim := ttrpc.NewClient(conn)
	defer shim.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // the subscription may begin after the first event
		for ctx.Err() == nil {
			shimevents.NewTTRPCEventsClient(shim).Forward(ctx, &shimevents.ForwardRequest{Envelope: &types.Envelope{
				Timestamp: timestamppb.Now(), Namespace: "n", Topic: "/tasks/exit", Event: &anypb.Any{TypeUrl: "t"},
			}})
		}
	}()
	e, err := sub.Recv()
	if err != nil || e.Topic != "/tasks/exit" || e.Namespace != "n" {
		t.Errorf("got %v, %v", e, err)
	}
}

func TestDisabledComponentsAreNotThere(t *testing.T) {
	conf := configAt(shortDir(t))
	conf.DisabledPlugins = []string{grpcType + ".leases", "io.containerd.gc.v1.scheduler"}
	_, c, _ := start(t, conf)
	if _, err := c.Leases().List(t.Context(), &leasesapi.ListRequest{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("leases: %v", err)
	}
	// What needs a disabled component fails, and the rest goes on.
	r, err := c.Introspection().Plugins(t.Context(), &introspectionapi.PluginsRequest{Filters: []string{"id==images-service", "id==images,type==" + grpcType}})
	if err != nil || len(r.Plugins) != 2 || r.Plugins[0].InitErr == nil || r.Plugins[1].InitErr == nil {
		t.Errorf("images without collections: %v, %v", r, err)
	}
	if _, err := c.Containers().List(t.Context(), &containersapi.ListContainersRequest{}); err != nil {
		t.Errorf("containers: %v", err)
	}
}

func TestRequiredComponentsMustBeThere(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"unknown":  func(c *Config) { c.RequiredPlugins = []string{"io.containerd.snapshotter.v1.none"} },
		"disabled": func(c *Config) { c.RequiredPlugins, c.DisabledPlugins = []string{metaURI}, []string{metaURI} },
		"skipped":  func(c *Config) { c.RequiredPlugins = []string{serverType + ".grpc-tcp"} },
		"broken": func(c *Config) {
			c.RequiredPlugins = []string{metaURI}
			options[boltOptions](c, metaURI).SharingPolicy = "generous"
		},
	} {
		conf := configAt(shortDir(t))
		edit(conf)
		d, err := New(t.Context(), conf)
		if err == nil {
			d.close()
			t.Errorf("%s: the daemon starts", name)
			continue
		}
		if !strings.Contains(err.Error(), conf.RequiredPlugins[0]) {
			t.Errorf("%s: %v does not name the component", name, err)
		}
		if _, err := os.Stat(conf.Address()); !os.IsNotExist(err) {
			t.Errorf("%s: the socket stays: %v", name, err)
		}
	}
}

func TestRootAndStateDiffer(t *testing.T) {
	conf := configAt(shortDir(t))
	conf.State = conf.Root + "/"
	if _, err := New(t.Context(), conf); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "must be different paths") {
		t.Errorf("got %v", err)
	}
}

func TestAStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close() // as a kill leaves it
	l, err := listenUnix(path, os.Getuid(), os.Getgid())
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	defer l.Close()
	if _, err := listenUnix(path, os.Getuid(), os.Getgid()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a live socket: %v", err)
	}
	file := filepath.Join(shortDir(t), "f")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(file, os.Getuid(), os.Getgid()); err == nil {
		t.Error("a file is replaced by a socket")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "keep" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestMetricsAndDebugSockets(t *testing.T) {
	conf := configAt(shortDir(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	options[metricsOptions](conf, serverType+".metrics").Address = address
	options[prometheusOptions](conf, "io.containerd.metrics.v1.grpc-prometheus").GRPCHistogram = true
	debug := filepath.Join(filepath.Dir(conf.Address()), "debug.sock")
	options[ttrpcOptions](conf, serverType+".debug").Address = debug
	_, c, _ := start(t, conf)
	if _, err := c.Version().Version(t.Context(), &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	text := ""
	for end := time.Now().Add(deadline); !strings.Contains(text, `containerd_gc_collections_total{status="success"}`); { // the first comes after a while
		if text = fetch(t, http.DefaultClient, "http://"+address+"/v1/metrics"); time.Now().After(end) {
			t.Fatal("no collection is counted")
		}
	}
	for _, want := range []string{
		`containerd_build_info_total{revision="` + version.Revision + `",version="` + version.Version + `"} 1`,
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Version",grpc_service="containerd.services.version.v1.Version",grpc_type="unary"} 1`,
		`grpc_server_started_total{grpc_method="List",grpc_service="containerd.services.content.v1.Content",grpc_type="server_stream"} 0`,
		`grpc_server_handling_seconds_count{grpc_method="Version",grpc_service="containerd.services.version.v1.Version",grpc_type="unary"} 1`,
		"process_resident_memory_bytes", "go_goroutines",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", debug)
	}}}
	if got := fetch(t, hc, "http://debug/debug/vars"); !strings.Contains(got, "memstats") {
		t.Errorf("expvar: %s", got)
	}
	if got := fetch(t, hc, "http://debug/debug/pprof/goroutine?debug=1"); !strings.Contains(got, "goroutine profile") {
		t.Errorf("pprof: %s", got)
	}
}

func fetch(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSystemdIsNotified(t *testing.T) {
	path := filepath.Join(shortDir(t), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if sent, err := notifySystemd(path, "READY=1"); !sent || err != nil {
		t.Fatalf("%v, %v", sent, err)
	}
	b := make([]byte, 64)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	if sent, err := notifySystemd("", "READY=1"); sent || err != nil {
		t.Errorf("without a socket: %v, %v", sent, err)
	}
}

// A client that waits must not keep the daemon from stopping, and learns that
// it stopped.
func TestStopEndsWaitingRequests(t *testing.T) {
	conf := configAt(shortDir(t))
	_, c, stop := start(t, conf)
	sub, err := c.Events().Subscribe(t.Context(), &eventsapi.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Version().Version(t.Context(), &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := sub.Recv(); err == nil {
		t.Error("the subscription goes on")
	}
	if _, err := os.Stat(conf.Address()); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
	start(t, conf) // again
}

// What a request began when the daemon was told to stop is undone before the
// stores close.
func TestStopWaitsForWhatRequestsUndo(t *testing.T) {
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	began, undone := make(chan struct{}), false
	d.serveGRPC(l, 0, 0, grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		close(began)
		<-s.Context().Done()
		undone = true
		return s.Context().Err()
	}))
	go d.servers[0].serve()
	c := connect(t, l.Addr().String(), "n")
	defer c.Close()
	if _, err := c.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/a/b"); err != nil {
		t.Fatal(err)
	}
	<-began
	d.servers[0].end()
	if !undone {
		t.Error("the handler still runs")
	}
}

func TestDeprecatedSectionsAreReported(t *testing.T) {
	conf := configAt(shortDir(t))
	options[otlpOptions](conf, "io.containerd.tracing.processor.v1.otlp").Endpoint = "x"
	_, c, _ := start(t, conf)
	r, err := c.Introspection().Server(t.Context(), &emptypb.Empty{})
	if err != nil || len(r.Deprecations) != 1 || r.Deprecations[0].ID != "io.containerd.deprecation/tracing-processor-config" {
		t.Errorf("got %v, %v", r, err)
	}
}

// TestMain is a daemon when the environment names a directory for it.
func TestMain(m *testing.M) {
	dir := os.Getenv("DAEMON_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	d, err := Boot(context.Background(), configAt(dir))
	if err == nil {
		err = d.Run(context.Background())
	}
	slog.Error("ended", "error", err)
	os.Exit(1)
}

// process starts a daemon as a process of its own and returns when it serves.
func process(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "DAEMON_TEST_DIR="+dir), env...)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var log bytes.Buffer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "serving") && strings.Contains(lines.Text(), filepath.Join(dir, "c.sock")) && !strings.Contains(lines.Text(), "ttrpc") {
			go io.Copy(io.Discard, out)
			return cmd
		}
	}
	t.Fatalf("the daemon does not serve:\n%s", log.String())
	return nil
}

// Whatever step a kill interrupts, the next daemon starts, holds no blob that
// was not acknowledged in half, and takes the same write again.
func TestAKilledDaemonStartsAgain(t *testing.T) {
	for _, point := range []string{"content.ingest.made", "meta.ingest.registered", "content.commit.synced", "content.commit.renamed", "meta.content.committed"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			cmd := process(t, dir, fault.Env+"="+point)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			if err := put(ctx, dial(t, filepath.Join(dir, "c.sock"), "n").Store(), "r", "hello"); err == nil {
				t.Fatal("the write succeeds")
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the daemon ended with %v", err)
			}
			_, c, _ := start(t, configAt(dir))
			err := put(ctx, c.Store(), "r", "hello")
			if err != nil && !errdefs.IsAlreadyExists(err) {
				t.Errorf("the write again: %v", err)
			}
			if info, err := c.Store().Info(ctx, digest.FromString("hello")); err != nil || info.Size != 5 {
				t.Errorf("the blob: %v, %v", info, err)
			}
			if list, err := c.Store().ListStatuses(ctx); err != nil || len(list) != 0 {
				t.Errorf("ingests stay: %v, %v", list, err)
			}
		})
	}
}
