// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	api "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/typeurl/v2"
	registryserver "github.com/google/go-containerregistry/pkg/registry"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/ident"
	"slipway/meta"
	"slipway/transfer"
)

// transferWorld is a server of transfers and the streams of its clients.
func transferWorld(t *testing.T) (*world, api.TransferClient) {
	w := newWorld(t, func(w *world) []registrar {
		streams := &transfer.Streams{}
		svc := transfer.New(transfer.Config{
			DB: w.db, Snapshotter: "native", Temp: t.TempDir(), Capabilities: func(string) []string { return nil },
		})
		return []registrar{NewTransfer(svc, streams, ""), NewStreaming(streams), NewContent(w.db), NewImages(w.db, w.gc)}
	})
	return w, api.NewTransferClient(w.conn)
}

// store makes an image of one layer by hand.
func storeImage(t *testing.T, w *world, name string) {
	t.Helper()
	c := contentapi.NewContentClient(w.conn)
	put(t, c, in(t, "a"), "config", "{}")
	put(t, c, in(t, "a"), "layer", "layer")
	manifest := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"mediaType":"` + ocispec.MediaTypeImageConfig +
		`","digest":"` + digestOfText("{}") + `","size":2},"layers":[{"mediaType":"` + ocispec.MediaTypeImageLayer + `","digest":"` + digestOfText("layer") + `","size":5}]}`
	put(t, c, in(t, "a"), "manifest", manifest)
	_, err := w.db.Images(ident.Scope{Namespace: "a"}).Create(t.Context(), meta.Image{Name: name, Target: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(manifest), Size: int64(len(manifest)),
	}})
	fatal(t, err)
}

// openStream opens a stream and waits until it can be named.
func openStream(t *testing.T, w *world, ctx context.Context, id string) streamingapi.Streaming_StreamClient {
	t.Helper()
	s, err := streamingapi.NewStreamingClient(w.conn).Stream(ctx)
	fatal(t, err)
	fatal(t, s.Send(anyOf(t, &streamingapi.StreamInit{ID: id})))
	ready, err := s.Recv()
	fatal(t, err)
	if !typeurl.Is(ready, &emptypb.Empty{}) {
		t.Fatalf("the first answer on a stream is %v", ready)
	}
	return s
}

// serveRegistry runs a registry that wants a password.
func serveRegistry(t *testing.T) string {
	h := registryserver.New(registryserver.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "me" || pass != "secret" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func TestPushAndPullWithCredentialsAndProgress(t *testing.T) {
	w, c := transferWorld(t)
	storeImage(t, w, "here:1")
	ref := serveRegistry(t) + "/x/y:1"
	ctx := in(t, "a")
	auth := func(id string) {
		s := openStream(t, w, ctx, id)
		go func() {
			for {
				var q wire.AuthRequest
				a, err := s.Recv()
				if err != nil || typeurl.UnmarshalTo(a, &q) != nil || !slices.Equal(q.Wwwauthenticate, []string{`Basic realm="test"`}) {
					s.CloseSend()
					return
				}
				a, _ = typeurl.MarshalAnyToProto(&wire.AuthResponse{AuthType: wire.AuthType_CREDENTIALS, Username: "me", Secret: "secret"})
				s.Send(a)
			}
		}()
	}
	auth("auth-1")
	registry := func(stream string) *wire.OCIRegistry {
		return &wire.OCIRegistry{Reference: ref, Resolver: &wire.RegistryResolver{AuthStream: stream, DefaultScheme: "http"}}
	}
	_, err := c.Transfer(ctx, &api.TransferRequest{Source: anyOf(t, &wire.ImageStore{Name: "here:1"}), Destination: anyOf(t, registry("auth-1"))})
	fatal(t, err)
	auth("auth-2")
	logs := openStream(t, w, ctx, "logs-1")
	traffic := make(chan []byte, 1)
	go func() { traffic <- receiveAll(logs) }()
	progress := openStream(t, w, ctx, "progress-1")
	_, err = c.Transfer(ctx, &api.TransferRequest{
		Source: anyOf(t, &wire.OCIRegistry{Reference: ref, Resolver: &wire.RegistryResolver{
			AuthStream: "auth-2", DefaultScheme: "http", HttpDebug: wire.HTTPDebug_BOTH, LogsStream: "logs-1",
		}}),
		Destination: anyOf(t, &wire.ImageStore{Name: "pulled:1", Labels: map[string]string{"k": "v"}}),
		Options:     &api.TransferOptions{ProgressStream: "progress-1"},
	})
	fatal(t, err)
	text := string(<-traffic)
	for _, want := range []string{"HEAD http://" + ref[:strings.Index(ref, "/")] + "/v2/x/y/manifests/1: 200 OK", "> Authorization: (secret)", "< Content-Type: ", "connected to tcp"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the log\n%s", want, text)
		}
	}
	if strings.Contains(text, "bWU6c2VjcmV0") {
		t.Error("the password is in the log")
	}
	var events []string
	for {
		a, err := progress.Recv()
		if err == io.EOF {
			break
		}
		fatal(t, err)
		var p wire.Progress
		fatal(t, typeurl.UnmarshalTo(a, &p))
		events = append(events, p.Event)
	}
	if len(events) < 4 || events[0] != "Resolving from "+ref || events[len(events)-1] != "Completed pull from "+ref {
		t.Errorf("progress %q", events)
	}
	img, err := w.db.Images(ident.Scope{Namespace: "a"}).Get(ctx, "pulled:1")
	fatal(t, err)
	if img.Labels["k"] != "v" {
		t.Errorf("image %v", img)
	}
	_, err = c.Transfer(ctx, &api.TransferRequest{Source: anyOf(t, registry("")), Destination: anyOf(t, &wire.ImageStore{Name: "x"})})
	if err == nil {
		t.Error("pulled without credentials")
	}
}

func TestAnUnpackIsForThisPlatformUnlessItSays(t *testing.T) {
	other := &types.Platform{OS: "linux", Architecture: "s390x"}
	o := storeOf(&wire.ImageStore{Unpacks: []*wire.UnpackConfiguration{{Snapshotter: "s"}, {Platform: other}}})
	if len(o.Unpacks) != 2 || o.Unpacks[0].Platform.Architecture != runtime.GOARCH || o.Unpacks[0].Snapshotter != "s" || o.Unpacks[1].Platform.Architecture != "s390x" {
		t.Errorf("%+v", o.Unpacks)
	}
}

func TestTagStoresTheTargetAgain(t *testing.T) {
	w, c := transferWorld(t)
	storeImage(t, w, "one")
	ctx := in(t, "a")
	for range 2 { // the second time it overwrites
		_, err := c.Transfer(ctx, &api.TransferRequest{Source: anyOf(t, &wire.ImageStore{Name: "one"}), Destination: anyOf(t, &wire.ImageStore{Name: "two"})})
		fatal(t, err)
	}
	images := w.db.Images(ident.Scope{Namespace: "a"})
	one, err := images.Get(ctx, "one")
	fatal(t, err)
	two, err := images.Get(ctx, "two")
	fatal(t, err)
	if one.Target.Digest != two.Target.Digest {
		t.Errorf("targets %v and %v", one.Target, two.Target)
	}
}

func TestEchoPassesBytesOn(t *testing.T) {
	w, c := transferWorld(t)
	ctx := in(t, "a")
	from, to := openStream(t, w, ctx, "from"), openStream(t, w, ctx, "to")
	text := []byte(strings.Repeat("0123456789abcdef", 20000)) // several windows
	go sendAll(from, text)
	got := make(chan []byte, 1)
	go func() { got <- receiveAll(to) }()
	_, err := c.Transfer(ctx, &api.TransferRequest{Source: anyOf(t, &wire.ImageImportStream{Stream: "from"}), Destination: anyOf(t, &wire.ImageExportStream{Stream: "to"})})
	fatal(t, err)
	if !bytes.Equal(<-got, text) {
		t.Error("other bytes came out")
	}
}

func TestExportAndImportOverByteStreams(t *testing.T) {
	w, c := transferWorld(t)
	storeImage(t, w, "example.test/x:1")
	to := openStream(t, w, in(t, "a"), "out")
	got := make(chan []byte, 1)
	go func() { got <- receiveAll(to) }()
	_, err := c.Transfer(in(t, "a"), &api.TransferRequest{
		Source: anyOf(t, &wire.ImageStore{Name: "example.test/x:1"}), Destination: anyOf(t, &wire.ImageExportStream{Stream: "out"}),
	})
	fatal(t, err)
	archive := <-got
	from := openStream(t, w, in(t, "b"), "in")
	go sendAll(from, archive)
	_, err = c.Transfer(in(t, "b"), &api.TransferRequest{
		Source:      anyOf(t, &wire.ImageImportStream{Stream: "in"}),
		Destination: anyOf(t, &wire.ImageStore{ExtraReferences: []*wire.ImageReference{{Name: "example.test/x", IsPrefix: true}}}),
	})
	fatal(t, err)
	img, err := w.db.Images(ident.Scope{Namespace: "b"}).Get(t.Context(), "example.test/x:1")
	fatal(t, err)
	if _, err := w.db.Content(ident.Scope{Namespace: "b"}).Info(t.Context(), img.Target.Digest); err != nil {
		t.Errorf("the target of the image is not there: %v", err)
	}
}

// sendAll and receiveAll are the client's ends of a byte stream.
func sendAll(s streamingapi.Streaming_StreamClient, text []byte) {
	for len(text) > 0 {
		a, err := s.Recv()
		if err != nil {
			return
		}
		var u wire.WindowUpdate
		if typeurl.UnmarshalTo(a, &u) != nil {
			return
		}
		for n := int(u.Update); n > 0 && len(text) > 0; {
			k := min(n, 32<<10, len(text))
			d, _ := typeurl.MarshalAnyToProto(&wire.Data{Data: text[:k]})
			s.Send(d)
			text, n = text[k:], n-k
		}
	}
	s.CloseSend()
}

func receiveAll(s streamingapi.Streaming_StreamClient) []byte {
	var all []byte
	for granted := 0; ; {
		if granted <= 0 {
			granted += 50000
			u, _ := typeurl.MarshalAnyToProto(&wire.WindowUpdate{Update: 50000})
			s.Send(u)
		}
		a, err := s.Recv()
		if err != nil {
			return all
		}
		var d wire.Data
		if typeurl.UnmarshalTo(a, &d) != nil || len(d.Data) > 32<<10 || len(d.Data) > granted {
			return nil
		}
		granted -= len(d.Data)
		all = append(all, d.Data...)
	}
}

func TestTransfersRefuseBadInput(t *testing.T) {
	w, c := transferWorld(t)
	openStream(t, w, in(t, "b"), "of-b")
	do := func(from, to *anypb.Any, progress string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Transfer(ctx, &api.TransferRequest{Source: from, Destination: to, Options: &api.TransferOptions{ProgressStream: progress}})
			return err
		}
	}
	store, registry := anyOf(t, &wire.ImageStore{Name: "x"}), anyOf(t, &wire.OCIRegistry{Reference: "localhost/x:1"})
	broken := proto.Clone(store).(*anypb.Any)
	broken.Value = []byte{0xff}
	runBad(t, "a", []badCall{
		{"nothing", codes.InvalidArgument, do(nil, nil, "")},
		{"no destination", codes.InvalidArgument, do(store, nil, "")},
		{"broken source", codes.InvalidArgument, do(broken, store, "")},
		{"unknown type", codes.Unimplemented, do(&anypb.Any{TypeUrl: "containerd.types.transfer.ContainerPath"}, store, "")},
		{"unknown pair", codes.Unimplemented, do(registry, registry, "")},
		{"missing image", codes.NotFound, do(store, store, "")},
		{"bad reference", codes.InvalidArgument, do(anyOf(t, &wire.OCIRegistry{Reference: "busybox"}), store, "")},
		{"unknown progress stream", codes.NotFound, do(store, store, "none")},
		{"progress stream of another namespace", codes.NotFound, do(store, store, "of-b")},
		{"unknown auth stream", codes.NotFound, do(anyOf(t, &wire.OCIRegistry{Reference: "localhost/x:1", Resolver: &wire.RegistryResolver{AuthStream: "none"}}), store, "")},
		{"unknown import stream", codes.NotFound, do(anyOf(t, &wire.ImageImportStream{Stream: "none"}), store, "")},
		{"unknown export stream", codes.NotFound, do(store, anyOf(t, &wire.ImageExportStream{Stream: "none"}), "")},
	})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, do(store, store, "")}})
}

func TestStreamsRefuseBadInput(t *testing.T) {
	w, _ := transferWorld(t)
	openStream(t, w, in(t, "a"), "s")
	first := func(m *anypb.Any) func(context.Context) error {
		return func(ctx context.Context) error {
			s, err := streamingapi.NewStreamingClient(w.conn).Stream(ctx)
			if err == nil {
				s.Send(m)
				_, err = s.Recv()
			}
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"same id", codes.AlreadyExists, first(anyOf(t, &streamingapi.StreamInit{ID: "s"}))},
		{"no id", codes.InvalidArgument, first(anyOf(t, &streamingapi.StreamInit{}))},
		{"other message", codes.InvalidArgument, first(anyOf(t, &emptypb.Empty{}))},
		{"no message", codes.InvalidArgument, first(&anypb.Any{})},
	})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, first(anyOf(t, &streamingapi.StreamInit{ID: "s"}))}})
	openStream(t, w, in(t, "b"), "s")
}
