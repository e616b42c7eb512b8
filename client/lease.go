// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/errdefs"
)

// expireLabel is when a lease ends by itself (RFC 3339).
const expireLabel = "containerd.io/gc.expire"

// cleanupTimeout bounds what is done after the caller's context has ended.
const cleanupTimeout = 10 * time.Second

type leaseKey struct{}

// UnderLease returns a context whose calls keep what they create in the
// existing lease id.
func UnderLease(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, leaseKey{}, id)
}

// WithLease creates a lease that ends after ttl at the latest, a day if ttl
// is 0. What is created under the returned context stays until done is
// called; done works after ctx has ended. A context that has a lease keeps
// it, and done does nothing.
func (c *Client) WithLease(ctx context.Context, ttl time.Duration) (_ context.Context, done func() error, err error) {
	if _, ok := ctx.Value(leaseKey{}).(string); ok {
		return ctx, func() error { return nil }, nil
	}
	if ttl <= 0 {
		ttl = 24 * time.Hour
	}
	id, err := c.NewLease(ctx, "", ttl, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("lease: create: %w", err)
	}
	done = func() error {
		ctx, cancel := detached(ctx)
		defer cancel()
		_, err := c.Leases().Delete(ctx, &leasesapi.DeleteRequest{ID: id})
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	return UnderLease(ctx, id), done, nil
}

// leased runs fn under a lease.
func (c *Client) leased(ctx context.Context, fn func(context.Context) error) (err error) {
	ctx, done, err := c.WithLease(ctx, 0)
	if err != nil {
		return err
	}
	defer func() {
		if derr := done(); err == nil {
			err = derr
		}
	}()
	return fn(ctx)
}

// NewLease creates a lease, with a name of its own if id is empty, that ends
// after ttl, or never if that is 0. It returns the name.
func (c *Client) NewLease(ctx context.Context, id string, ttl time.Duration, labels map[string]string) (string, error) {
	now := time.Now()
	if id == "" {
		id = uniqueID(now)
	}
	r := &leasesapi.CreateRequest{ID: id, Labels: maps.Clone(labels)}
	if ttl > 0 {
		if r.Labels == nil {
			r.Labels = make(map[string]string)
		}
		r.Labels[expireLabel] = now.Add(ttl).UTC().Format(time.RFC3339)
	}
	_, err := c.Leases().Create(ctx, r)
	return id, err
}

// detached is a context for clean-up, which outlives ctx but not for long.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
}

// uniqueID has the form "<part of the time in ns>-<3 random bytes in base64>".
func uniqueID(now time.Time) string {
	var b [3]byte
	rand.Read(b[:])
	return fmt.Sprintf("%d-%s", now.Nanosecond(), base64.URLEncoding.EncodeToString(b[:]))
}
