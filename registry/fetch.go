// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/image"
)

// Fetch opens a blob or manifest at offset. A connection that breaks is made
// again where it broke. The bytes are not verified.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if int64(len(desc.Data)) == desc.Size && desc.Size > 0 && offset <= desc.Size {
		return io.NopCloser(bytes.NewReader(desc.Data[offset:])), nil
	}
	b := &body{ctx: ctx, repo: r, desc: desc, offset: offset}
	if err := b.open(); err != nil {
		if errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("%s: %s %s: %w", r.ref, desc.MediaType, desc.Digest, err)
		}
		return nil, fmt.Errorf("%s: fetch %s: %w", r.ref, desc.Digest, err)
	}
	return b, nil
}

// body is a blob that is being read.
type body struct {
	ctx    context.Context // of one Fetch; a Reader has no other place for it
	repo   *Repository
	desc   ocispec.Descriptor
	offset int64
	failed int // attempts since the last byte
	rc     io.ReadCloser
}

func (b *body) Read(p []byte) (int, error) {
	for {
		n, err := b.rc.Read(p)
		b.offset += int64(n)
		if n > 0 {
			b.failed = 0
		}
		if err == nil || n > 0 {
			return n, nil
		}
		done := b.offset >= b.desc.Size
		if done || b.ctx.Err() != nil {
			return 0, err
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if b.failed++; b.failed >= attempts {
			return 0, fmt.Errorf("%d of %d bytes: %w", b.offset, b.desc.Size, err)
		}
		if err := b.reopen(); err != nil {
			return 0, err
		}
	}
}

func (b *body) reopen() error {
	b.rc.Close()
	select {
	case <-time.After(time.Duration(b.failed) * 100 * time.Millisecond):
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	if err := b.open(); err != nil {
		b.rc = io.NopCloser(bytes.NewReader(nil))
		return err
	}
	return nil
}

func (b *body) Close() error { return b.rc.Close() }

func (b *body) open() error {
	err := b.repo.each(b.ctx, canPull, func(h *host, last bool) error {
		rc, err := b.repo.fetchAt(b.ctx, h, b.desc, b.offset, last)
		if err == nil {
			b.rc = rc
		}
		return err
	})
	if err == nil || !errdefs.IsNotFound(err) {
		return err
	}
	for _, raw := range b.desc.URLs { // a layer that is kept elsewhere
		if rc, ferr := b.repo.fetchURL(b.ctx, raw, b.offset); ferr == nil {
			b.rc = rc
			return nil
		}
	}
	return err
}

func (r *Repository) fetchAt(ctx context.Context, h *host, desc ocispec.Descriptor, offset int64, last bool) (io.ReadCloser, error) {
	kind, header := "blobs", http.Header{}
	if image.IsManifest(desc.MediaType) || image.IsIndex(desc.MediaType) {
		kind = "manifests"
		if desc.Size > MaxManifest {
			return nil, fmt.Errorf("manifest of %d bytes is larger than the limit of %d: %w", desc.Size, MaxManifest, errdefs.ErrInvalidArgument)
		}
	}
	header.Set("Accept", "*/*")
	if desc.MediaType != "" {
		header.Set("Accept", desc.MediaType+", */*")
	}
	req := request{
		method: http.MethodGet, path: []string{r.name, kind, desc.Digest.String()},
		header: header, scopes: r.pullScope(), patient: last,
	}
	return h.get(ctx, req, offset)
}

// fetchURL gets a blob from outside of the registry, without credentials.
func (r *Repository) fetchURL(ctx context.Context, raw string, offset int64) (io.ReadCloser, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%s: unsupported scheme: %w", raw, errdefs.ErrInvalidArgument)
	}
	h, err := newHost(site{scheme: u.Scheme, address: u.Host, can: canPull}, u.Host, Options{})
	if err != nil {
		return nil, err
	}
	return h.get(ctx, request{method: http.MethodGet, url: u}, offset)
}

// get asks for a body from offset on. A server that sends everything is
// read up to there.
func (h *host) get(ctx context.Context, req request, offset int64) (io.ReadCloser, error) {
	if offset > 0 {
		if req.header == nil {
			req.header = http.Header{}
		}
		req.header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := h.do(ctx, req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		if err := checkRange(resp, offset); err != nil {
			drain(resp)
			return nil, err
		}
		return resp.Body, nil
	case resp.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("%s: skip %d bytes: %w: %w", h.where(req), offset, err, errdefs.ErrUnavailable)
		}
		return resp.Body, nil
	}
	return nil, h.unexpected(req, resp)
}

// checkRange refuses a part that begins elsewhere than asked.
func checkRange(resp *http.Response, offset int64) error {
	var from int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != offset {
		return fmt.Errorf("range %q instead of one from %d: %w", resp.Header.Get("Content-Range"), offset, errors.Join(err, errdefs.ErrUnavailable))
	}
	return nil
}
