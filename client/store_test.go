// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/content"
	"slipway/content/contenttest"
)

// serve runs a gRPC server with what register adds, and returns a client.
func serve(t *testing.T, register func(*grpc.Server)) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.WaitForHandlers(true), // they write into directories of the test
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(ctx, req)
			return resp, errgrpc.ToGRPC(err)
		}),
		grpc.StreamInterceptor(func(s any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return errgrpc.ToGRPC(h(s, stream))
		}))
	register(srv)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	c, err := Dial(t.Context(), socket, Options{Namespace: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func contentClient(t *testing.T) (*Client, *contenttest.Server) {
	t.Helper()
	local, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &contenttest.Server{Local: local}
	return serve(t, func(srv *grpc.Server) { contentapi.RegisterContentServer(srv, s) }), s
}

func TestStoreKeepsTheContractOverTheWire(t *testing.T) {
	contenttest.Run(t, func(t *testing.T) content.Store {
		c, _ := contentClient(t)
		return c.Store()
	})
}

func TestLargeBlobsPassInBlocks(t *testing.T) {
	c, s := contentClient(t)
	data := make([]byte, 3<<20+17)
	rand.Read(data)
	if err := putBlob(t.Context(), c.Store(), data); err != nil {
		t.Fatal(err)
	}
	ra, err := c.Store().ReaderAt(t.Context(), digest.FromBytes(data))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, io.NewSectionReader(ra, 0, ra.Size()), make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), data) {
		t.Error("the blob is damaged")
	}
	if n := s.Reads.Load(); n != 4 {
		t.Errorf("%d calls to read 3 blocks and a bit", n)
	}
	tail := make([]byte, 100)
	if n, err := ra.ReadAt(tail, ra.Size()-10); n != 10 || err != io.EOF || !bytes.Equal(tail[:n], data[len(data)-10:]) {
		t.Errorf("read across the end: %d, %v", n, err)
	}
	whole := make([]byte, len(data))
	if n, err := ra.ReadAt(whole, 0); n != len(data) || err != nil || !bytes.Equal(whole, data) {
		t.Errorf("read of all: %d, %v", n, err)
	}
}

func putBlob(ctx context.Context, s content.Ingester, data []byte) error {
	w, err := s.Writer(ctx, content.WriterOpts{Ref: "r", Total: int64(len(data))})
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit(ctx, int64(len(data)), digest.FromBytes(data), nil)
}

func TestWalkEndsWhenTheCallbackFails(t *testing.T) {
	c, _ := contentClient(t)
	for _, data := range []string{"a", "b", "c"} {
		if err := putBlob(t.Context(), c.Store(), []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	n, enough := 0, errors.New("enough")
	err := c.Store().Walk(t.Context(), func(content.Info) error {
		if n++; n == 2 {
			return enough
		}
		return nil
	})
	if n != 2 || err != enough {
		t.Errorf("%d calls, %v", n, err)
	}
}

// leaseServer notes the headers of calls.
type leaseServer struct {
	leasesapi.UnimplementedLeasesServer
	created, deleted string
	expire           string
	seen             metadata.MD
}

func (s *leaseServer) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	s.created, s.expire = r.ID, r.Labels[expireLabel]
	return &leasesapi.CreateResponse{Lease: &leasesapi.Lease{ID: r.ID}}, nil
}

func (s *leaseServer) Delete(_ context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	s.deleted = r.ID
	return &emptypb.Empty{}, nil
}

func (s *leaseServer) List(ctx context.Context, _ *leasesapi.ListRequest) (*leasesapi.ListResponse, error) {
	s.seen, _ = metadata.FromIncomingContext(ctx)
	return nil, fmt.Errorf("lease %q: %w: %w", "x", errors.New("cause"), errdefs.ErrNotFound)
}

func TestLeaseGoesWithTheCalls(t *testing.T) {
	s := &leaseServer{}
	c := serve(t, func(srv *grpc.Server) { leasesapi.RegisterLeasesServer(srv, s) })
	outer, cancel := context.WithCancel(t.Context())
	ctx, done, err := c.WithLease(outer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Leases().List(ctx, &leasesapi.ListRequest{})
	if !errdefs.IsNotFound(err) || err.Error() != `lease "x": cause: not found` {
		t.Errorf("error over the wire: %v", err)
	}
	if got := s.seen.Get(namespaceHeader); len(got) != 1 || got[0] != "test" {
		t.Errorf("namespace %q", got)
	}
	if got := s.seen.Get(leaseHeader); len(got) != 1 || got[0] != s.created {
		t.Errorf("lease %q, created %q", got, s.created)
	}
	if at, err := time.Parse(time.RFC3339, s.expire); err != nil || time.Until(at) < 50*time.Minute {
		t.Errorf("expires at %q", s.expire)
	}
	inner, innerDone, err := c.WithLease(ctx, 0)
	if err != nil || inner != ctx || innerDone() != nil || s.deleted != "" {
		t.Error("a lease within a lease must be the same one")
	}
	cancel()
	if err := done(); err != nil || s.deleted != s.created {
		t.Errorf("deleted %q after the context ended: %v", s.deleted, err)
	}
}

func TestDialNeedsASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	_, err := Dial(t.Context(), path, Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "cannot access socket "+path+": ") {
		t.Errorf("error %v", err)
	}
}
