// SPDX-License-Identifier: Apache-2.0

package bytestream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// service answers each stream with a function.
type service struct {
	streamingapi.UnimplementedStreamingServer
	serve func(streamingapi.Streaming_StreamServer) error
}

func (s service) Stream(stream streamingapi.Streaming_StreamServer) error { return s.serve(stream) }

// dial opens a stream whose other end is serve. Either end may go without
// our codec, as those of other implementations do.
func dial(t *testing.T, server, client encoding.CodecV2, serve func(streamingapi.Streaming_StreamServer) error) streamingapi.Streaming_StreamClient {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(server))
	streamingapi.RegisterStreamingServer(srv, service{serve: serve})
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("passthrough:test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s, err := streamingapi.NewStreamingClient(conn).Stream(t.Context(), grpc.ForceCodecV2(client))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func plain() encoding.CodecV2 { return encoding.GetCodecV2(grpcproto.Name) }

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// sendPlainly is a sender as others write it: 32 KiB at a time, of what was
// granted.
func sendPlainly(s streamingapi.Streaming_StreamServer, b []byte) error {
	for granted := 0; len(b) > 0; {
		for granted <= 0 {
			a, err := s.Recv()
			if err != nil {
				return err
			}
			var u wire.WindowUpdate
			if err := typeurl.UnmarshalTo(a, &u); err != nil {
				return err
			}
			granted += int(u.Update)
		}
		n := min(granted, 32<<10, len(b))
		a, err := typeurl.MarshalAnyToProto(&wire.Data{Data: b[:n]})
		if err != nil {
			return err
		}
		if err := s.Send(a); err != nil {
			return err
		}
		b, granted = b[n:], granted-n
	}
	return nil
}

func TestBytesArriveAsTheyWere(t *testing.T) {
	want := noise(5<<20 + 17)
	for claim, serve := range map[string]func(streamingapi.Streaming_StreamServer) error{
		"of ours": func(s streamingapi.Streaming_StreamServer) error {
			w := NewWriter(s)
			for b := want; len(b) > 0; {
				n := min(len(b), 300_001)
				if _, err := w.Write(b[:n]); err != nil {
					return err
				}
				b = b[n:]
			}
			return nil
		},
		"of others": func(s streamingapi.Streaming_StreamServer) error { return sendPlainly(s, want) },
	} {
		t.Run(claim, func(t *testing.T) {
			var got bytes.Buffer
			n, err := NewReader(dial(t, Codec(), Codec(), serve)).WriteTo(&got)
			if err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%d of %d bytes, %v", n, len(want), err)
			}
			r := NewReader(dial(t, Codec(), Codec(), serve))
			all, err := io.ReadAll(io.MultiReader(io.LimitReader(r, 100_003), r))
			if err != nil || !bytes.Equal(all, want) {
				t.Errorf("read %d of %d bytes, %v", len(all), len(want), err)
			}
		})
	}
}

// Others grant 64 KiB at a time and take at most 32 KiB in a message.
func TestWriterKeepsToWhatIsGranted(t *testing.T) {
	want := noise(300_000)
	done := make(chan error, 1)
	s := dial(t, Codec(), plain(), func(s streamingapi.Streaming_StreamServer) error {
		_, err := NewWriter(s).Write(want)
		done <- err
		return err
	})
	var got []byte
	for granted := 0; len(got) < len(want); {
		if granted < 64<<10 {
			granted += 64 << 10
			a, _ := typeurl.MarshalAnyToProto(&wire.WindowUpdate{Update: 64 << 10})
			if err := s.Send(a); err != nil && err != io.EOF { // it has sent all
				t.Fatal(err)
			}
		}
		a, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var d wire.Data
		if err := typeurl.UnmarshalTo(a, &d); err != nil {
			t.Fatal(err)
		}
		if granted -= len(d.Data); granted < 0 || len(d.Data) > 32<<10 {
			t.Fatalf("a message of %d bytes, %d of them not granted", len(d.Data), max(-granted, 0))
		}
		got = append(got, d.Data...)
	}
	if err := <-done; err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, the bytes are the same: %v", err, bytes.Equal(got, want))
	}
}

func TestLargeWindowMakesLargeMessages(t *testing.T) {
	s := dial(t, Codec(), plain(), func(s streamingapi.Streaming_StreamServer) error {
		_, err := NewWriter(s).Write(make([]byte, 2<<20))
		return err
	})
	a, _ := typeurl.MarshalAnyToProto(&wire.WindowUpdate{Update: 4 << 20})
	if err := s.Send(a); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Recv(); err != nil || len(a.Value) < maxChunk {
		t.Errorf("got %d bytes, %v", len(a.GetValue()), err)
	}
}

func TestEndsOfTheOtherSide(t *testing.T) {
	gone := errors.New("gone")
	r := NewReader(dial(t, Codec(), Codec(), func(streamingapi.Streaming_StreamServer) error { return gone }))
	for range 2 { // the error stays
		if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF || !strings.Contains(err.Error(), "gone") {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
	w := NewWriter(dial(t, Codec(), Codec(), func(streamingapi.Streaming_StreamServer) error { return nil }))
	if _, err := w.Write([]byte("x")); !errdefs.IsUnavailable(err) {
		t.Errorf("written to one who has gone: %v", err)
	}
}

// memStream is a stream whose other end sends messages and then its end.
type memStream struct{ messages []*anypb.Any }

func (s *memStream) SendMsg(m any) error {
	_, err := Codec().Marshal(m)
	return err
}

func (s *memStream) RecvMsg(m any) error {
	if len(s.messages) == 0 {
		return io.EOF
	}
	b, err := proto.Marshal(s.messages[0])
	s.messages = s.messages[1:]
	if err != nil {
		return err
	}
	// In two pieces, as it may come.
	return Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(b[:len(b)/3]), mem.SliceBuffer(b[len(b)/3:])}, m)
}

func FuzzByteStream(f *testing.F) {
	good, _ := proto.Marshal(&wire.Data{Data: []byte("data")})
	grant, _ := proto.Marshal(&wire.WindowUpdate{Update: 7})
	f.Add(dataURL, good)
	f.Add(dataURL, append(good, good...))
	f.Add(dataURL, append([]byte{0x10, 1}, good...))
	f.Add("containerd.types.transfer.WindowUpdate", grant)
	f.Add(dataURL, []byte{0xff})
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		m := &anypb.Any{TypeUrl: url, Value: value}
		var got bytes.Buffer
		_, err := NewReader(&memStream{[]*anypb.Any{m}}).WriteTo(&got)
		var d wire.Data
		wrong := typeurl.UnmarshalTo(m, &d)
		if _, merr := proto.Marshal(m); merr != nil {
			wrong = merr
		}
		if (err == nil) != (wrong == nil) || wrong == nil && !bytes.Equal(got.Bytes(), d.Data) {
			t.Errorf("%x and %v, the message has %x and %v", got.Bytes(), err, d.Data, wrong)
		}
		if n, err := NewWriter(&memStream{[]*anypb.Any{m}}).Write(make([]byte, 100)); n > 100 || n < 100 && err == nil {
			t.Errorf("wrote %d of 100 bytes, %v", n, err)
		}
	})
}
