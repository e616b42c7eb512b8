// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/ident"
)

// A Stream carries messages between a transfer and its client.
type Stream interface {
	Send(*anypb.Any) error
	Recv() (*anypb.Any, error)
	SendMsg(m any) error
	RecvMsg(m any) error
	Context() context.Context
}

// Streams finds the streams that clients opened. The zero value is ready to
// use.
type Streams struct {
	mu   sync.Mutex
	open map[streamKey]*openStream
}

type streamKey struct {
	ns ident.Namespace
	id string
}

type openStream struct {
	Stream
	done  chan struct{}
	close func()
}

// Add registers s. The returned channel is closed when the transfer that
// uses the stream is through with it.
func (s *Streams) Add(ns ident.Namespace, id string, stream Stream) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := streamKey{ns, id}
	if _, ok := s.open[key]; ok {
		return nil, fmt.Errorf("stream %q: %w", id, errdefs.ErrAlreadyExists)
	}
	if s.open == nil {
		s.open = make(map[streamKey]*openStream)
	}
	done := make(chan struct{})
	s.open[key] = &openStream{stream, done, sync.OnceFunc(func() { close(done) })}
	return done, nil
}

// Remove forgets a stream.
func (s *Streams) Remove(ns ident.Namespace, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, streamKey{ns, id})
}

// Get returns a stream and the function that ends it, which may be called
// more than once.
func (s *Streams) Get(ns ident.Namespace, id string) (Stream, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.open[streamKey{ns, id}]
	if !ok {
		return nil, nil, fmt.Errorf("stream %q: %w", id, errdefs.ErrNotFound)
	}
	return o.Stream, o.close, nil
}
