// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
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
	for _, from := range append(slices.Clip(mountFrom), "") {
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
			return h.location(resp)
		case from != "" && resp.StatusCode < 500: // no right to read there
			drain(resp)
		default:
			return nil, h.unexpected(req, resp)
		}
	}
	panic("the last round returns")
}

// location is where an upload goes on; it may be relative, or another host. A
// registry behind a proxy that does the TLS for it may not know that it is to
// be reached by https; ours is not given up for that.
func (h *host) location(resp *http.Response) (*url.URL, error) {
	u, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("upload: %w: %w", err, errdefs.ErrUnavailable)
	}
	if u.Host == h.address && h.scheme == "https" {
		u.Scheme = "https"
	}
	return u, nil
}

// upload sends a blob: in one request, or if that breaks in as many as it
// takes, each from where the registry says it is.
func (r *Repository) upload(ctx context.Context, h *host, where *url.URL, desc ocispec.Descriptor, provider content.Provider, progress func(int64)) error {
	ra, err := provider.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer ra.Close()
	u := &upload{repo: r, host: h, where: where, desc: desc, provider: provider, size: ra.Size()}
	stop := u.watch(progress)
	err = u.sendAll(ctx)
	stop()
	if err == nil {
		progress(u.size)
	}
	return err
}

// upload is a blob on its way to a registry.
type upload struct {
	repo     *Repository
	host     *host
	where    *url.URL // to send the next bytes to
	offset   int64    // of the next byte
	desc     ocispec.Descriptor
	provider content.Provider
	size     int64
	position atomic.Pointer[func() int64] // where the body of the latest request is
}

func (u *upload) sendAll(ctx context.Context) error {
	for i := 1; ; i++ {
		again, err := u.send(ctx)
		if err == nil || !again || i == attempts || ctx.Err() != nil {
			return err
		}
		if err := u.host.sleep(ctx, backOff(i)); err != nil {
			return err
		}
		if err := u.resume(ctx); err != nil {
			return err
		}
	}
}

// send sends what is left and ends the upload. again says that another
// attempt makes sense.
func (u *upload) send(ctx context.Context) (again bool, err error) {
	if u.offset > 0 && u.offset < u.size {
		header := http.Header{"Content-Range": {fmt.Sprintf("%d-%d", u.offset, u.size-1)}}
		resp, again, err := u.do(ctx, http.MethodPatch, *u.where, header, http.StatusAccepted, http.StatusNoContent)
		if err != nil {
			return again, err
		}
		if u.where, err = u.host.location(resp); err != nil {
			return false, err
		}
		u.offset = u.size
	}
	last := *u.where
	q := last.Query()
	q.Set("digest", u.desc.Digest.String())
	last.RawQuery = q.Encode()
	_, again, err = u.do(ctx, http.MethodPut, last, http.Header{}, http.StatusCreated, http.StatusNoContent)
	return again, err
}

// do sends the bytes from the offset on.
func (u *upload) do(ctx context.Context, method string, to url.URL, header http.Header, good ...int) (resp *http.Response, again bool, err error) {
	left := u.size - u.offset
	header.Set("Content-Type", "application/octet-stream")
	req := request{method: method, url: &to, size: left, header: header}
	if left > 0 {
		req.body = func() (io.ReadCloser, error) { return u.open(ctx) }
	}
	if to.Host == u.host.address {
		req.scopes = u.repo.pushScope()
	}
	resp, err = u.host.do(ctx, req)
	if err != nil {
		return nil, isTransient(err), err
	}
	if !slices.Contains(good, resp.StatusCode) {
		again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable
		return nil, again, u.host.unexpected(req, resp)
	}
	drain(resp)
	return resp, false, nil
}

// resume asks how far the upload came, or begins another one.
func (u *upload) resume(ctx context.Context) (err error) {
	req := request{method: http.MethodGet, url: u.where, patient: true}
	if u.where.Host == u.host.address {
		req.scopes = u.repo.pushScope()
	}
	resp, err := u.host.do(ctx, req)
	if err == nil && resp.StatusCode == http.StatusNoContent {
		drain(resp)
		var last int64
		if _, err := fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &last); err == nil && last > 0 && last < u.size {
			u.offset = last + 1
			u.where, err = u.host.location(resp)
			return err
		}
	} else if err == nil {
		drain(resp)
	}
	u.offset = 0
	u.where, err = u.repo.begin(ctx, u.host, u.desc, nil)
	return err
}

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
