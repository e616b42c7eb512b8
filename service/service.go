// SPDX-License-Identifier: Apache-2.0

// Package service serves the API of the daemon. A handler decodes a request,
// calls one method of a domain package and encodes the result: what a request
// means is decided below, what it looks like on the wire is decided here.
//
// Interceptors, which are not here, put the scope of a request into its
// context and turn the errors of handlers, of the errdefs kinds, into
// statuses. Every service has a Register method for the server it is on.
package service

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
)

// A Collector runs garbage collections. Wait returns after one that began
// later than the call.
type Collector interface {
	Wait(ctx context.Context) error
}

// collectIf waits for a collection when a request asks for it.
func collectIf(ctx context.Context, gc Collector, sync bool) error {
	if !sync {
		return nil
	}
	return gc.Wait(ctx)
}

// RegisterHealth serves grpc.health.v1.Health. A daemon that answers is
// healthy.
func RegisterHealth(r grpc.ServiceRegistrar) { healthapi.RegisterHealthServer(r, health.NewServer()) }

// page is how many records one message of a list stream carries.
const page = 100

// pager collects records and sends them a page at a time.
type pager[T any] struct {
	send    func([]T) error
	pending []T
}

func (p *pager[T]) add(v T) error {
	p.pending = append(p.pending, v)
	if len(p.pending) < page {
		return nil
	}
	return p.flush()
}

// flush sends what is pending; without any, nothing.
func (p *pager[T]) flush() error {
	if len(p.pending) == 0 {
		return nil
	}
	batch := p.pending
	p.pending = nil
	return p.send(batch)
}
