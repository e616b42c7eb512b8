// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"

	api "github.com/containerd/containerd/api/services/events/v1"
	shimapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/event"
	"slipway/internal/ident"
)

// Events serves containerd.services.events.v1.Events, and to shims, over
// ttrpc, the part of it that they need.
type Events struct {
	api.UnimplementedEventsServer
	exchange *event.Exchange
}

// NewEvents returns the service over an exchange.
func NewEvents(x *event.Exchange) *Events { return &Events{exchange: x} }

// Register puts the service on a server.
func (s *Events) Register(r grpc.ServiceRegistrar) { api.RegisterEventsServer(r, s) }

// RegisterTTRPC serves containerd.services.events.ttrpc.v1.Events.
func (s *Events) RegisterTTRPC(srv *ttrpc.Server) {
	shimapi.RegisterTTRPCEventsService(srv, shimEvents{s.exchange})
}

// Publish sends an event of the caller's namespace, dated now.
func (s *Events) Publish(ctx context.Context, r *api.PublishRequest) (*emptypb.Empty, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.exchange.PublishAny(ctx, scope.Namespace, r.Topic, r.Event); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Forward sends an event as it is.
func (s *Events) Forward(ctx context.Context, r *api.ForwardRequest) (*emptypb.Empty, error) {
	if err := s.exchange.Forward(ctx, envelopeOf(r.Envelope)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Subscribe sends the events of all namespaces that match, until the client
// goes away.
func (s *Events) Subscribe(r *api.SubscribeRequest, stream api.Events_SubscribeServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	events, ended := s.exchange.Subscribe(ctx, r.Filters...)
	for {
		select {
		case e := <-events:
			if err := stream.Send(envelopeProto(e)); err != nil {
				return fmt.Errorf("subscription: %w", err)
			}
		case err := <-ended:
			return fmt.Errorf("subscription: %w", err)
		}
	}
}

type shimEvents struct{ exchange *event.Exchange }

// Forward sends an event of a shim.
func (s shimEvents) Forward(ctx context.Context, r *shimapi.ForwardRequest) (*emptypb.Empty, error) {
	if err := s.exchange.Forward(ctx, envelopeOf(r.Envelope)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
