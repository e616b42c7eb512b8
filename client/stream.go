// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/bytestream"
)

// stream carries messages beside a transfer, which names it by id:
//
//	client  StreamInit{id}             → daemon
//	client  ← Empty                      the stream is known
//	either end: what the transfer asks for, until one ends the stream
type stream struct {
	id     string
	api    streamingapi.Streaming_StreamClient
	cancel context.CancelFunc
	sendMu sync.Mutex // gRPC takes one sender at a time
	served sync.WaitGroup
}

// openStream makes a stream whose id begins with kind. Close it.
func (c *Client) openStream(ctx context.Context, kind string) (_ *stream, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{id: kind + "-" + uniqueID(time.Now()), cancel: cancel}
	defer func() {
		if err != nil {
			cancel()
			err = fmt.Errorf("stream %s: %w", s.id, err)
		}
	}()
	if s.api, err = c.Streaming().Stream(ctx, grpc.ForceCodecV2(bytestream.Codec())); err != nil {
		return nil, err
	}
	if err := s.send(&streamingapi.StreamInit{ID: s.id}); err != nil && err != io.EOF {
		return nil, err
	}
	if _, err := s.recv(); err != nil { // the daemon's acknowledgement
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return s, nil
}

func (s *stream) send(m proto.Message) error {
	a, err := anyOf(m)
	if err != nil {
		return err
	}
	return s.SendMsg(a)
}

func (s *stream) recv() (*anypb.Any, error) { return s.api.Recv() }

// serve runs fn beside the transfer until close.
func (s *stream) serve(fn func()) { s.served.Go(fn) }

// close ends the stream after the daemon has, or soon if it does not, and
// waits for what is being served.
func (s *stream) close() {
	s.sendMu.Lock()
	s.api.CloseSend()
	s.sendMu.Unlock()
	timer := time.AfterFunc(2*time.Second, s.cancel)
	s.served.Wait()
	timer.Stop()
	s.cancel()
}

// SendMsg and RecvMsg are for a Reader or Writer of bytes.
func (s *stream) SendMsg(m any) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.api.SendMsg(m)
}

func (s *stream) RecvMsg(m any) error { return s.api.RecvMsg(m) }

// copyBuffer is the size in bytes of the pieces that are read of an archive.
const copyBuffer = 256 << 10

// sendBytes sends r as the receiver grants it, and its end. A receiver that
// has gone is errdefs.ErrUnavailable.
func (s *stream) sendBytes(r io.Reader) error {
	w := bytestream.NewWriter(s)
	for buf := make([]byte, copyBuffer); ; {
		n, err := r.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return fmt.Errorf("stream %s: the receiver has gone: %w: %w", s.id, err, errdefs.ErrUnavailable)
		}
		if err == io.EOF {
			s.sendMu.Lock()
			defer s.sendMu.Unlock()
			return s.api.CloseSend()
		}
		if err != nil {
			return err
		}
	}
}

// receiveBytes writes to w what the other end sends, until its end.
func (s *stream) receiveBytes(w io.Writer) error {
	_, err := bytestream.NewReader(s).WriteTo(w)
	return err
}
