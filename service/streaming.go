// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"

	api "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/ident"
	"slipway/transfer"
)

// Streaming serves containerd.services.streaming.v1.Streaming: clients open
// streams here that other requests of the same namespace then name.
type Streaming struct {
	api.UnimplementedStreamingServer
	streams *transfer.Streams
}

// NewStreaming returns the service; the streams are found in the registry
// that it is given.
func NewStreaming(s *transfer.Streams) *Streaming { return &Streaming{streams: s} }

// Register puts the service on a server.
func (s *Streaming) Register(r grpc.ServiceRegistrar) { api.RegisterStreamingServer(r, s) }

// Stream keeps a stream open until its user or its client is through with it.
// The answer to the first message tells the client that it can be named.
func (s *Streaming) Stream(stream api.Streaming_StreamServer) error {
	scope, err := ident.ScopeOf(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	id, err := streamID(first)
	if err != nil {
		return err
	}
	done, err := s.streams.Add(scope.Namespace, id, stream)
	if err != nil {
		return err
	}
	defer s.streams.Remove(scope.Namespace, id)
	ready, err := typeurl.MarshalAnyToProto(&emptypb.Empty{})
	if err != nil {
		return err
	}
	if err := stream.Send(ready); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func streamID(first *anypb.Any) (string, error) {
	var init api.StreamInit
	if err := typeurl.UnmarshalTo(first, &init); err != nil {
		return "", fmt.Errorf("first message of a stream: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if init.ID == "" {
		return "", fmt.Errorf("stream id must be set: %w", errdefs.ErrInvalidArgument)
	}
	return init.ID, nil
}
