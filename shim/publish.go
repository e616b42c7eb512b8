// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"slipway/internal/pb"
	"slipway/internal/ttrpc"
)

const (
	publishTimeout = 5 * time.Second
	publishTries   = 5 // of an event that the daemon refuses
	publishRetry   = 100 * time.Millisecond
	publishRetryAt = 2 * time.Second // the longest pause between tries
	publishQueue   = 2048
)

// A publisher sends events to the daemon in the order in which they were
// published. While the daemon is down it keeps them, up to a number, and tries
// again; it never sends a later event first.
type publisher struct {
	ns     string
	client ttrpc.Client
	log    *slog.Logger

	mu    sync.Mutex
	queue []*envelope
	wake  chan struct{} // holds one token when the queue may have changed
}

func newPublisher(ns, address string, log *slog.Logger) *publisher {
	return &publisher{ns: ns, client: ttrpc.Client{Path: socketPath(address)}, log: log, wake: make(chan struct{}, 1)}
}

// publish queues an event; it does not wait.
func (p *publisher) publish(topic, typeURL string, event any) {
	e := &envelope{Timestamp: time.Now(), Namespace: p.ns, Topic: topic, Event: &pb.Any{TypeURL: typeURL, Value: pb.Marshal(event)}}
	p.mu.Lock()
	p.queue = append(p.queue, e)
	over := len(p.queue) - publishQueue
	if over > 0 {
		p.queue = append([]*envelope(nil), p.queue[over:]...)
	}
	p.mu.Unlock()
	if over > 0 {
		p.log.Warn("the queue of events is full: the oldest is dropped")
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// serve sends until ctx ends.
func (p *publisher) serve(ctx context.Context) {
	defer p.client.Close()
	for {
		e := p.first()
		if e == nil {
			select {
			case <-p.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if !p.send(ctx, e) {
			return
		}
		p.drop(e)
	}
}

// flush waits until everything is sent, at most until ctx ends.
func (p *publisher) flush(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.first() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *publisher) first() *envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue = nil
		return nil
	}
	return p.queue[0]
}

// drop removes e, unless the queue overflowed meanwhile and did so.
func (p *publisher) drop(e *envelope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == e {
		p.queue = p.queue[1:]
	}
}

// send tries until the daemon took e or has refused it for good. It reports
// false if ctx ended before that.
func (p *publisher) send(ctx context.Context, e *envelope) bool {
	pause := publishRetry
	for refused := 0; ; {
		err := p.forward(ctx, e)
		if err == nil {
			return true
		}
		if !errors.Is(err, ttrpc.ErrBroken) {
			refused++
		}
		if refused == publishTries {
			p.log.Error("event dropped", "topic", e.Topic, "error", err)
			return true
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, publishRetryAt)
		case <-ctx.Done():
			return false
		}
	}
}

func (p *publisher) forward(ctx context.Context, e *envelope) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	metadata := map[string]string{"containerd-namespace-ttrpc": p.ns}
	return p.client.Call(ctx, "containerd.services.events.ttrpc.v1.Events", "Forward", metadata, &forwardRequest{Envelope: e}, &empty{})
}
