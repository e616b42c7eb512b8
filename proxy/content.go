// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"slipway/content"
	"slipway/content/remote"
	"slipway/meta"
)

// Content is a content store that another process serves. It has the blobs of
// all namespaces: which of them has what is in the daemon's database.
type Content struct{ *remote.Store }

var _ meta.ContentBackend = Content{}

// NewContent returns the content store name that c's server has.
func NewContent(c grpc.ClientConnInterface, name string) Content {
	return Content{remote.New(conn{c, "content store " + name, namespaced})}
}

// Walk implements meta.ContentBackend.
func (c Content) Walk(ctx context.Context, fn func(content.Info) error) error {
	return c.Store.Walk(ctx, fn)
}

// RemoveIngestsExcept implements meta.ContentBackend. Which ingests have a
// writer is the server's to know: it decides whether they can be aborted.
func (c Content) RemoveIngestsExcept(ctx context.Context, keep func(ref string) bool) error {
	all, err := c.ListStatuses(ctx)
	if err != nil {
		return err
	}
	for _, st := range all {
		if keep(st.Ref) {
			continue
		}
		if err := c.Abort(ctx, st.Ref); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) {
			return err
		}
	}
	return nil
}
