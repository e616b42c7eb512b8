// SPDX-License-Identifier: Apache-2.0

package ttrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/pb"
)

type envelope struct {
	Namespace string `pb:"2"`
}

type forward struct {
	Envelope *envelope `pb:"1"`
}

const service = "containerd.services.events.ttrpc.v1.Events"

// serve runs a server with one method and returns the path of its socket.
func serve(t *testing.T, m Method) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Services: map[string]map[string]Method{service: {"Forward": m}}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		s.Close(ctx)
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

func published(t *testing.T, path string) *ttrpc.Client {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestServerAnswersThePublishedClient(t *testing.T) {
	path := serve(t, Unary(func(ctx context.Context, r *forward) (*struct{}, error) {
		switch r.Envelope.Namespace {
		case "missing":
			return nil, fmt.Errorf("thing: %w", errdefs.ErrNotFound)
		case "slow":
			<-ctx.Done()
			return nil, ctx.Err()
		case "odd":
			return nil, errors.New("odd")
		}
		return &struct{}{}, nil
	}))
	client := ttrpcevents.NewTTRPCEventsClient(published(t, path))
	for _, tt := range []struct {
		ns   string
		want func(error) bool
	}{
		{"fine", func(err error) bool { return err == nil }},
		{"missing", errdefs.IsNotFound},
		{"odd", func(err error) bool { return err != nil && errdefs.IsUnknown(err) }},
		{"slow", func(err error) bool { return err != nil }}, // whoever notices first
	} {
		wait := 30 * time.Second
		if tt.ns == "slow" {
			wait = 10 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		_, err := client.Forward(ctx, &ttrpcevents.ForwardRequest{Envelope: &types.Envelope{Namespace: tt.ns}})
		cancel()
		if !tt.want(errgrpc.ToNative(err)) {
			t.Errorf("%s: %v", tt.ns, err)
		}
	}
}

func TestUnknownMethodsAreNotImplemented(t *testing.T) {
	path := serve(t, Unary(func(context.Context, *forward) (*struct{}, error) { return &struct{}{}, nil }))
	c := published(t, path)
	for _, name := range [][2]string{{service, "Other"}, {"other.Service", "Forward"}} {
		err := c.Call(context.Background(), name[0], name[1], &emptypb.Empty{}, &emptypb.Empty{})
		if !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
			t.Errorf("%v: %v", name, err)
		}
	}
}

// eventServer is the published server.
type eventServer struct{ err error }

func (s eventServer) Forward(ctx context.Context, r *ttrpcevents.ForwardRequest) (*emptypb.Empty, error) {
	if ns, _ := ttrpc.GetMetadataValue(ctx, "ns"); ns != r.Envelope.Namespace {
		return nil, fmt.Errorf("metadata is %q", ns)
	}
	return &emptypb.Empty{}, s.err
}

func TestClientCallsThePublishedServerAndFindsItAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := &Client{Path: path}
	defer c.Close()
	call := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return c.Call(ctx, service, "Forward", map[string]string{"ns": "a"}, forward{&envelope{"a"}}, &struct{}{})
	}
	if err := call(); !errors.Is(err, ErrBroken) {
		t.Errorf("call without a server: %v", err)
	}
	for _, want := range []error{nil, errdefs.ErrNotFound} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ttrpc.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		ttrpcevents.RegisterTTRPCEventsService(s, eventServer{errgrpc.ToGRPC(want)})
		go s.Serve(context.Background(), l)
		for range 3 {
			if err := call(); !errors.Is(err, want) {
				t.Errorf("call: %v, want %v", err, want)
			}
		}
		s.Close()
	}
}

func TestLargeMessagesAreRefused(t *testing.T) {
	if err := writeFrame(&bytes.Buffer{}, frame{payload: make([]byte, maxMessage+1)}); err == nil {
		t.Error("a large message was written")
	}
	head := []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0}
	if _, err := readFrame(bytes.NewReader(head)); err == nil {
		t.Error("a large message was read")
	}
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	writeFrame(&b, frame{stream: 1, kind: typeRequest, payload: pb.Marshal(request{Service: "s", Method: "m"})})
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 9, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, err := readFrame(bytes.NewReader(in))
		if err != nil {
			return
		}
		s := &Server{}
		if _, err := s.call(context.Background(), fr); err == nil {
			t.Error("a server without services answered")
		}
	})
}
