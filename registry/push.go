// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"slipway/content"
)

// Push sends a blob unless the registry has it. mountFrom names repositories
// of the same registry that may have it already. progress is told how many
// bytes are sent.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, provider content.Provider, mountFrom []string, progress func(int64)) error {
	h, err := r.pushHost()
	if err != nil {
		return err
	}
	there, err := r.exists(ctx, h, "blobs", desc.Digest.String(), desc.Digest)
	if err != nil {
		return fmt.Errorf("%s: push %s: %w", r.ref, desc.Digest, err)
	}
	if there {
		return fmt.Errorf("content %v on remote: %w", desc.Digest, errdefs.ErrAlreadyExists)
	}
	where, err := r.begin(ctx, h, desc, mountFrom)
	if err != nil {
		return fmt.Errorf("%s: push %s: %w", r.ref, desc.Digest, err)
	}
	if where == nil { // mounted
		progress(desc.Size)
		return nil
	}
	if err := r.upload(ctx, h, where, desc, provider, progress); err != nil {
		return fmt.Errorf("%s: push %s: %w", r.ref, desc.Digest, err)
	}
	return nil
}

// pushHost is where to push: the first host that takes pushes.
func (r *Repository) pushHost() (*host, error) {
	if hosts := r.able(canPush); len(hosts) > 0 {
		return hosts[0], nil
	}
	return nil, fmt.Errorf("%s: no host has the capability %s: %w", r.ref, canPush, errdefs.ErrNotFound)
}

func (r *Repository) pushScope() []string {
	return []string{auth.ScopeRepository(r.name, auth.ActionPull, auth.ActionPush)}
}

// exists asks for an object by its tag or digest and compares digests.
func (r *Repository) exists(ctx context.Context, h *host, kind, object string, want digest.Digest) (bool, error) {
	req := request{method: http.MethodHead, path: []string{r.name, kind, object}, header: manifestTypes, scopes: r.pushScope(), patient: true}
	resp, err := h.do(ctx, req)
	if err != nil {
		return false, err
	}
	if resp.StatusCode == http.StatusNotFound {
		drain(resp)
		return false, nil
	}
	if resp.StatusCode != http.StatusOK {
		return false, h.unexpected(req, resp)
	}
	drain(resp)
	return object == want.String() || resp.Header.Get("Docker-Content-Digest") == want.String(), nil
}

// begin starts an upload and returns where to send it, or nil if the registry
// mounted the blob from one of the other repositories.
func (r *Repository) begin(ctx context.Context, h *host, desc ocispec.Descriptor, mountFrom []string) (*url.URL, error) {
	for _, from := range append(mountFrom, "") {
		req := request{method: http.MethodPost, path: []string{r.name, "blobs", "uploads", ""}, scopes: r.pushScope(), patient: true}
		if from != "" {
			req.query = url.Values{"mount": {desc.Digest.String()}, "from": {from}}
			req.scopes = append(req.scopes, auth.ScopeRepository(from, auth.ActionPull))
		}
		resp, err := h.do(ctx, req)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode == http.StatusCreated:
			drain(resp)
			return nil, nil
		case resp.StatusCode == http.StatusAccepted:
			drain(resp)
			return location(resp)
		case from != "" && resp.StatusCode < 500: // no right to read there
			drain(resp)
		default:
			return nil, h.unexpected(req, resp)
		}
	}
	panic("the last round returns")
}

// location is where an upload goes on; it may be relative, or another host.
func location(resp *http.Response) (*url.URL, error) {
	u, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("upload: %w: %w", err, errdefs.ErrUnavailable)
	}
	return u, nil
}

// upload sends the whole blob in one request.
func (r *Repository) upload(ctx context.Context, h *host, where *url.URL, desc ocispec.Descriptor, provider content.Provider, progress func(int64)) error {
	ra, err := provider.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer ra.Close()
	q := where.Query()
	q.Set("digest", desc.Digest.String())
	where.RawQuery = q.Encode()
	req := request{
		method: http.MethodPut, url: where, size: ra.Size(), header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: func() (io.ReadCloser, error) {
			return &counter{Reader: io.NewSectionReader(ra, 0, ra.Size()), report: progress}, nil
		},
	}
	if where.Host == h.address {
		req.scopes = r.pushScope()
	}
	if ra.Size() == 0 {
		req.body = nil
	}
	resp, err := h.do(ctx, req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent {
		return h.unexpected(req, resp)
	}
	drain(resp)
	return nil
}

// counter reports how much was read of it.
type counter struct {
	io.Reader
	n      atomic.Int64
	report func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.report(c.n.Add(int64(n)))
	return n, err
}

func (c *counter) Close() error { return nil }

// PushManifest sends a manifest or index: the top one under the tag of the
// reference, others by their digest.
func (r *Repository) PushManifest(ctx context.Context, desc ocispec.Descriptor, provider content.Provider, top bool) error {
	h, err := r.pushHost()
	if err != nil {
		return err
	}
	object := desc.Digest.String()
	if top {
		if d := r.digest(); d != "" && d != desc.Digest {
			return fmt.Errorf("%s: push %s: the reference has another digest: %w", r.ref, desc.Digest, errdefs.ErrInvalidArgument)
		}
		object = r.object
	}
	there, err := r.exists(ctx, h, "manifests", object, desc.Digest)
	if err != nil {
		return fmt.Errorf("%s: push %s: %w", r.ref, desc.Digest, err)
	}
	if there {
		return fmt.Errorf("content %v on remote: %w", desc.Digest, errdefs.ErrAlreadyExists)
	}
	ra, err := provider.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer ra.Close()
	req := request{
		method: http.MethodPut, path: []string{r.name, "manifests", object}, size: ra.Size(), scopes: r.pushScope(), patient: true,
		header: http.Header{"Content-Type": {desc.MediaType}},
		body: func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(ra, 0, ra.Size())), nil
		},
	}
	resp, err := h.do(ctx, req)
	if err != nil {
		return fmt.Errorf("%s: push %s: %w", r.ref, desc.Digest, err)
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: push %s: %w", r.ref, desc.Digest, h.unexpected(req, resp))
	}
	drain(resp)
	return nil
}
