// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	eventsapi "github.com/containerd/containerd/api/events"
	services "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
)

func events(flagSet) action {
	return func(s *session, filters []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		stream, err := c.Events().Subscribe(s.ctx, &services.SubscribeRequest{Filters: filters})
		if err != nil {
			return err
		}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			s.event(e)
		}
	}
}

func (s *session) event(e *types.Envelope) {
	var text []byte
	if e.Event != nil {
		m, err := decode(e.Event)
		if err == nil {
			text, err = json.Marshal(m)
		}
		if err != nil {
			s.log().Warn("cannot decode an event", "topic", e.Topic, "error", err)
			return
		}
	}
	fmt.Fprintln(s.out, e.Timestamp.AsTime(), e.Namespace, e.Topic, string(text))
}

// The types of events are known because this package is linked in.
var _ proto.Message = (*eventsapi.TaskExit)(nil)

// decode returns what a holds: a message of a type that is linked in, or a
// JSON document.
func decode(a *anypb.Any) (any, error) {
	name := a.GetTypeUrl()[strings.LastIndex(a.GetTypeUrl(), "/")+1:]
	if t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err == nil {
		m := t.New().Interface()
		return m, proto.Unmarshal(a.Value, m)
	}
	var v any
	switch {
	case strings.HasSuffix(a.GetTypeUrl(), "runtime-spec/1/Spec"):
		return client.Spec(a)
	case strings.HasSuffix(a.GetTypeUrl(), "runtime-spec/1/features/Features"):
		v = &features.Features{} // which keeps the order of the fields
	}
	if err := json.Unmarshal(a.GetValue(), &v); err != nil {
		return nil, fmt.Errorf("type with url %s: %w", a.GetTypeUrl(), errdefs.ErrNotFound)
	}
	return v, nil
}
