// SPDX-License-Identifier: Apache-2.0

package event

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/filter"
	"slipway/internal/ident"
)

// An Exchange hands every event to every subscriber that wants it, in the
// order of publication. Publishing never waits for a subscriber.
type Exchange struct {
	mu   sync.Mutex
	subs map[*queue]struct{}
}

// New returns an Exchange without subscribers.
func New() *Exchange { return &Exchange{subs: make(map[*queue]struct{})} }

// Publish sends msg under the type URL of its message name.
func (x *Exchange) Publish(ctx context.Context, ns ident.Namespace, topic string, msg proto.Message) error {
	a, err := typeurl.MarshalAnyToProto(msg)
	if err != nil {
		return fmt.Errorf("event %s: %w", topic, err)
	}
	return x.PublishAny(ctx, ns, topic, a)
}

// PublishAny sends an encoded event, dated now.
func (x *Exchange) PublishAny(ctx context.Context, ns ident.Namespace, topic string, a *anypb.Any) error {
	return x.Forward(ctx, Envelope{Timestamp: time.Now().UTC(), Namespace: ns, Topic: topic, Event: a})
}

// Forward sends an event that somebody else dated.
func (x *Exchange) Forward(_ context.Context, e Envelope) error {
	if err := e.check(); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for q := range x.subs {
		if q.match(e.field) {
			q.put(e)
		}
	}
	return nil
}

func (e Envelope) check() error {
	if err := e.Namespace.Check(); err != nil {
		return fmt.Errorf("event envelope has invalid namespace: %w", err)
	}
	if err := checkTopic(e.Topic); err != nil {
		return fmt.Errorf("envelope topic %q: %w", e.Topic, err)
	}
	if e.Timestamp.IsZero() {
		return fmt.Errorf("timestamp must be set on forwarded event: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func checkTopic(topic string) error {
	if topic == "" {
		return fmt.Errorf("must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if topic[0] != '/' {
		return fmt.Errorf("must start with '/': %w", errdefs.ErrInvalidArgument)
	}
	if len(topic) == 1 {
		return fmt.Errorf("must have at least one component: %w", errdefs.ErrInvalidArgument)
	}
	for _, c := range strings.Split(topic[1:], "/") {
		if err := ident.Check(c); err != nil {
			return fmt.Errorf("invalid component %q: %w", c, err)
		}
	}
	return nil
}

// Subscribe delivers the events that one of filters matches until ctx ends.
// The channel of errors gets one value: why the subscription ended.
func (x *Exchange) Subscribe(ctx context.Context, filters ...string) (<-chan Envelope, <-chan error) {
	out, errs := make(chan Envelope), make(chan error, 1)
	match, err := filter.Parse(filters...)
	if err != nil {
		errs <- err
		return out, errs
	}
	q := &queue{match: match, wake: make(chan struct{}, 1)}
	x.mu.Lock()
	x.subs[q] = struct{}{}
	x.mu.Unlock()
	go func() {
		errs <- q.deliver(ctx, out)
		x.mu.Lock()
		delete(x.subs, q)
		x.mu.Unlock()
	}()
	return out, errs
}

// queue holds what a subscriber has not taken yet.
type queue struct {
	match filter.Filter
	wake  chan struct{}

	mu      sync.Mutex
	pending []Envelope
}

func (q *queue) put(e Envelope) {
	q.mu.Lock()
	q.pending = append(q.pending, e)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() []Envelope {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.pending
	q.pending = nil
	return batch
}

func (q *queue) deliver(ctx context.Context, out chan<- Envelope) error {
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, e := range q.take() {
			select {
			case out <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// field gives a filter the namespace, the topic and, below event, the fields
// of messages that are known here and name them.
func (e Envelope) field(path []string) (string, bool) {
	switch path[0] {
	case "namespace":
		return string(e.Namespace), len(path) == 1 && e.Namespace != ""
	case "topic":
		return e.Topic, len(path) == 1 && e.Topic != ""
	case "event":
		if e.Event == nil || len(path) == 1 {
			return "", false
		}
		msg, err := typeurl.UnmarshalAny(e.Event)
		if err != nil {
			return "", false
		}
		if f, ok := msg.(interface{ Field([]string) (string, bool) }); ok {
			return f.Field(path[1:])
		}
	}
	return "", false
}
