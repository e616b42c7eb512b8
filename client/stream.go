// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Byte streams send chunks, at most as much as the receiver has granted.
const (
	chunkSize  = 32 << 10
	windowSize = 64 << 10
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
	if s.api, err = c.Streaming().Stream(ctx); err != nil {
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
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.api.Send(a)
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

// sendBytes sends r in chunks as the receiver grants them, and its end.
func (s *stream) sendBytes(r io.Reader) error {
	grants := make(chan int64)
	done := make(chan struct{})
	defer close(done)
	s.serve(func() {
		defer close(grants)
		for {
			var grant wire.WindowUpdate
			a, err := s.recv()
			if err != nil || unmarshalAny(a, &grant) != nil {
				return
			}
			select {
			case grants <- int64(grant.Update):
			case <-done: // nothing left to send
			}
		}
	})
	buf := make([]byte, chunkSize)
	var window int64
	for {
		for window <= 0 {
			grant, ok := <-grants
			if !ok {
				return fmt.Errorf("stream %s: the receiver has gone: %w", s.id, errdefs.ErrUnavailable)
			}
			window += grant
		}
		n, err := r.Read(buf[:min(window, chunkSize)])
		if n > 0 {
			window -= int64(n)
			if err := s.send(&wire.Data{Data: buf[:n]}); err != nil {
				return err
			}
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
	window := 0
	for {
		if window < windowSize {
			if err := s.send(&wire.WindowUpdate{Update: windowSize}); err != nil && err != io.EOF {
				return err
			}
			window += windowSize
		}
		a, err := s.recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var d wire.Data
		if err := unmarshalAny(a, &d); err != nil {
			return err
		}
		window -= len(d.Data)
		if _, err := w.Write(d.Data); err != nil {
			return err
		}
	}
}
