// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"

	api "github.com/containerd/containerd/api/services/transfer/v1"
	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/bytestream"
	"slipway/internal/ident"
	"slipway/registry"
	"slipway/transfer"
)

// Transfer serves containerd.services.transfer.v1.Transfer.
type Transfer struct {
	api.UnimplementedTransferServer
	service  *transfer.Service
	streams  *transfer.Streams
	hostsDir string
}

// NewTransfer returns the service; it finds the streams that requests name in
// streams, and registries that come without a directory of hosts.toml files
// in hostsDir.
func NewTransfer(s *transfer.Service, streams *transfer.Streams, hostsDir string) *Transfer {
	return &Transfer{service: s, streams: streams, hostsDir: hostsDir}
}

// Register puts the service on a server.
func (s *Transfer) Register(r grpc.ServiceRegistrar) { api.RegisterTransferServer(r, s) }

// Transfer moves images from a source to a destination. What the two are says
// what is done:
//
//	registry      → image store     pull
//	image store   → registry        push
//	image store   → image store     tag
//	import stream → image store     import
//	image store   → export stream   export
//	import stream → export stream   the bytes, as they are
func (s *Transfer) Transfer(ctx context.Context, r *api.TransferRequest) (*emptypb.Empty, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	from, err := endpointOf(r.Source)
	if err != nil {
		return nil, fmt.Errorf("source of the transfer: %w", err)
	}
	to, err := endpointOf(r.Destination)
	if err != nil {
		return nil, fmt.Errorf("destination of the transfer: %w", err)
	}
	m := &move{Transfer: s, scope: scope}
	defer m.endStreams()
	if m.report, err = m.progress(ctx, r.GetOptions().GetProgressStream()); err != nil {
		return nil, err
	}
	if err := m.run(ctx, from, to); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// endpointOf decodes a source or a destination.
func endpointOf(a *anypb.Any) (proto.Message, error) {
	if a == nil {
		return nil, fmt.Errorf("not given: %w", errdefs.ErrInvalidArgument)
	}
	for _, m := range []proto.Message{
		&wire.OCIRegistry{}, &wire.ImageStore{}, &wire.ImageImportStream{}, &wire.ImageExportStream{},
	} {
		if !typeurl.Is(a, m) {
			continue
		}
		if err := typeurl.UnmarshalTo(a, m); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", a.TypeUrl, err, errdefs.ErrInvalidArgument)
		}
		return m, nil
	}
	return nil, fmt.Errorf("type %q: %w", a.TypeUrl, errdefs.ErrNotImplemented)
}

// move is one transfer under way.
type move struct {
	*Transfer
	scope  ident.Scope
	report transfer.Report
	ends   []func() // end the streams of the client
}

func (m *move) endStreams() {
	for _, end := range m.ends {
		end()
	}
}

// stream finds a stream of the client. It ends with the transfer, also with
// one that is cancelled while it waits for the stream.
func (m *move) stream(ctx context.Context, id string) (transfer.Stream, error) {
	s, end, err := m.streams.Get(m.scope.Namespace, id)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, end)
	m.ends = append(m.ends, end)
	return s, nil
}

func (m *move) run(ctx context.Context, from, to proto.Message) error {
	switch from := from.(type) {
	case *wire.OCIRegistry:
		if to, ok := to.(*wire.ImageStore); ok {
			return m.pull(ctx, from, to)
		}
	case *wire.ImageStore:
		switch to := to.(type) {
		case *wire.OCIRegistry:
			return m.push(ctx, from, to)
		case *wire.ImageStore:
			return m.service.Tag(ctx, m.scope, from.Name, storeOf(to))
		case *wire.ImageExportStream:
			return m.export(ctx, from, to)
		}
	case *wire.ImageImportStream:
		switch to := to.(type) {
		case *wire.ImageStore:
			return m.importInto(ctx, from, to)
		case *wire.ImageExportStream:
			return m.echo(ctx, from, to)
		}
	}
	return fmt.Errorf("transfer from %s to %s: %w",
		from.ProtoReflect().Descriptor().Name(), to.ProtoReflect().Descriptor().Name(), errdefs.ErrNotImplemented)
}

func (m *move) pull(ctx context.Context, from *wire.OCIRegistry, to *wire.ImageStore) error {
	opts, err := m.registry(ctx, from)
	if err != nil {
		return err
	}
	return m.service.Pull(ctx, m.scope, from.Reference, transfer.PullOpts{Registry: opts, Store: storeOf(to), Report: m.report})
}

func (m *move) push(ctx context.Context, from *wire.ImageStore, to *wire.OCIRegistry) error {
	opts, err := m.registry(ctx, to)
	if err != nil {
		return err
	}
	return m.service.Push(ctx, m.scope, from.Name, to.Reference, transfer.PushOpts{
		Registry: opts, Platforms: platformsOf(from.Platforms), Report: m.report,
	})
}

func (m *move) importInto(ctx context.Context, from *wire.ImageImportStream, to *wire.ImageStore) error {
	s, err := m.stream(ctx, from.Stream)
	if err != nil {
		return err
	}
	opts := transfer.ImportOpts{Store: storeOf(to), Compress: from.ForceCompress}
	return m.service.Import(ctx, m.scope, bytestream.NewReader(s), opts, m.report)
}

func (m *move) export(ctx context.Context, from *wire.ImageStore, to *wire.ImageExportStream) error {
	s, err := m.stream(ctx, to.Stream)
	if err != nil {
		return err
	}
	opts := transfer.ExportOpts{
		Platforms: platformsOf(to.Platforms), AllPlatforms: to.AllPlatforms,
		SkipManifestJSON: to.SkipCompatibilityManifest, SkipNonDistributable: to.SkipNonDistributable,
	}
	if from.Name != "" {
		opts.Images = append(opts.Images, transfer.Reference{Name: from.Name})
	}
	opts.Images = append(opts.Images, storeOf(from).References...)
	return m.service.Export(ctx, m.scope, bytestream.NewWriter(s), opts, m.report)
}

// echo passes the bytes of an import on as an export.
func (m *move) echo(ctx context.Context, from *wire.ImageImportStream, to *wire.ImageExportStream) error {
	in, err := m.stream(ctx, from.Stream)
	if err != nil {
		return err
	}
	out, err := m.stream(ctx, to.Stream)
	if err != nil {
		return err
	}
	_, err = bytestream.NewReader(in).WriteTo(bytestream.NewWriter(out))
	return err
}

func storeOf(s *wire.ImageStore) transfer.StoreOpts {
	o := transfer.StoreOpts{
		Name: s.Name, Labels: s.Labels, Platforms: platformsOf(s.Platforms), AllMetadata: s.AllMetadata, Manifests: int(s.ManifestLimit),
	}
	for _, u := range s.Unpacks {
		platform := platforms.DefaultSpec()
		if u.Platform != nil {
			platform = platformOf(u.Platform)
		}
		o.Unpacks = append(o.Unpacks, transfer.Unpack{Platform: platform, Snapshotter: u.Snapshotter})
	}
	for _, r := range s.ExtraReferences {
		o.References = append(o.References, transfer.Reference{
			Name: r.Name, IsPrefix: r.IsPrefix, AllowOverwrite: r.AllowOverwrite, AddDigest: r.AddDigest, SkipNamedDigest: r.SkipNamedDigest,
		})
	}
	return o
}

// registry says how to reach a registry.
func (m *move) registry(ctx context.Context, r *wire.OCIRegistry) (opts registry.Options, err error) {
	res := r.Resolver
	opts = registry.Options{HostsDir: res.GetHostDir(), PlainHTTP: res.GetDefaultScheme() == "http"}
	if opts.HostsDir == "" {
		opts.HostsDir = m.hostsDir
	}
	for k, v := range res.GetHeaders() {
		if opts.Headers == nil {
			opts.Headers = http.Header{}
		}
		opts.Headers.Set(k, v)
	}
	if opts.Log, err = m.log(ctx, r); err != nil {
		return opts, err
	}
	if id := res.GetAuthStream(); id != "" {
		s, err := m.stream(ctx, id)
		if err != nil {
			return opts, err
		}
		a := &authenticator{stream: s, reference: r.Reference, challenges: map[string][]string{}}
		opts.Credentials, opts.Trace = a.ask, a.note
	}
	return opts, nil
}

// log sends the log of the traffic to the client's stream, or to that of the
// daemon if there is none.
func (m *move) log(ctx context.Context, r *wire.OCIRegistry) (l registry.Log, err error) {
	res := r.Resolver
	l.Heads = res.GetHttpDebug() == wire.HTTPDebug_DEBUG || res.GetHttpDebug() == wire.HTTPDebug_BOTH
	l.Connections = res.GetHttpDebug() == wire.HTTPDebug_TRACE || res.GetHttpDebug() == wire.HTTPDebug_BOTH
	id := res.GetLogsStream()
	if id == "" {
		l.Write = func(text string) {
			slog.Info("traffic of a transfer", "namespace", string(m.scope.Namespace), "image", r.Reference, "text", text)
		}
		return l, nil
	}
	s, err := m.stream(ctx, id)
	if err != nil {
		return l, err
	}
	var mu sync.Mutex
	w := bytestream.NewWriter(s)
	gone := false
	l.Write = func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if !gone { // a client that does not listen any more misses nothing
			_, err := io.WriteString(w, text)
			gone = err != nil
		}
	}
	return l, nil
}

// authenticator asks the client for credentials, one question at a time.
type authenticator struct {
	stream    transfer.Stream
	reference string
	asking    sync.Mutex

	mu         sync.Mutex
	challenges map[string][]string // last ones, by host
}

// note remembers what a host asks for.
func (a *authenticator) note(hop registry.Hop) {
	u, err := url.Parse(hop.URL)
	if err != nil || hop.Status != http.StatusUnauthorized {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.challenges[u.Host] = hop.Challenges
}

func (a *authenticator) challengesOf(host string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.challenges[host]
}

func (a *authenticator) ask(_ context.Context, host string) (c registry.Credential, err error) {
	a.asking.Lock()
	defer a.asking.Unlock()
	question, err := typeurl.MarshalAnyToProto(&wire.AuthRequest{Host: host, Reference: a.reference, Wwwauthenticate: a.challengesOf(host)})
	if err != nil {
		return c, err
	}
	if err := a.stream.Send(question); err != nil {
		return c, fmt.Errorf("credentials of %s: %w", host, err)
	}
	msg, err := a.stream.Recv()
	if err != nil {
		return c, fmt.Errorf("credentials of %s: %w", host, err)
	}
	var answer wire.AuthResponse
	if err := typeurl.UnmarshalTo(msg, &answer); err != nil {
		return c, fmt.Errorf("credentials of %s: %w: %w", host, err, errdefs.ErrInvalidArgument)
	}
	switch answer.AuthType {
	case wire.AuthType_CREDENTIALS:
		c.Username, c.Password = answer.Username, answer.Secret
	case wire.AuthType_REFRESH:
		c.RefreshToken = answer.Secret
	case wire.AuthType_HEADER:
		c.Header = answer.Secret
	}
	return c, nil
}

// progress returns the report that tells the client, or nobody.
func (m *move) progress(ctx context.Context, id string) (transfer.Report, error) {
	if id == "" {
		return func(transfer.Progress) {}, nil
	}
	s, err := m.stream(ctx, id)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	return func(p transfer.Progress) {
		a, err := typeurl.MarshalAnyToProto(progressProto(p))
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		s.Send(a) // a client that does not listen any more misses nothing
	}, nil
}

func progressProto(p transfer.Progress) *wire.Progress {
	out := &wire.Progress{Event: p.Event, Name: p.Name, Parents: p.Parents, Progress: p.Progress, Total: p.Total}
	if p.Desc != nil {
		out.Desc = descriptorProto(*p.Desc)
	}
	return out
}
