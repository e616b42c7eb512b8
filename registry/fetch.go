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
	return r.fetch(ctx, desc, offset, desc.Size)
}

// fetch opens the bytes of a blob from offset up to end.
func (r *Repository) fetch(ctx context.Context, desc ocispec.Descriptor, offset, end int64) (*body, error) {
	b := &body{ctx: ctx, repo: r, desc: desc, offset: offset, end: end}
	if err := b.open(); err != nil {
		if errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("%s: %s %s: %w", r.ref, desc.MediaType, desc.Digest, err)
		}
		return nil, fmt.Errorf("%s: fetch %s: %w", r.ref, desc.Digest, err)
	}
	return b, nil
}

// pace is what a connection must keep up with while it is being waited for.
type pace struct {
	stall  time.Duration // the longest time without a byte
	window time.Duration // and over this time
	bytes  int64         // at least so many
}

// defaultPace gives up a connection that carries nothing for half a minute,
// or less than 1 KiB/s for a minute.
var defaultPace = pace{stall: 30 * time.Second, window: time.Minute, bytes: 60 << 10}

// body is a blob that is being read.
type body struct {
	ctx    context.Context // of one Fetch; a Reader has no other place for it
	repo   *Repository
	desc   ocispec.Descriptor
	offset int64
	end    int64 // where to stop
	ranged bool  // the server sends no more than it was asked for
	failed int   // attempts since the last byte
	slow   int   // connections that were given up for being slow
	rc     io.ReadCloser

	cut    context.CancelCauseFunc // ends the connection
	timer  *time.Timer             // cuts it when it stalls
	waited time.Duration           // in the current window
	got    int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.end < b.desc.Size { // the rest is of no interest
		if b.offset >= b.end {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), b.end-b.offset)]
	}
	for {
		n, err := b.readSome(p)
		b.offset += int64(n)
		if n > 0 {
			b.failed = 0
		}
		if err == nil || n > 0 {
			return n, nil
		}
		done := b.offset >= b.end
		if done || b.ctx.Err() != nil {
			return 0, err
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if b.failed++; b.failed >= attempts || b.slow >= attempts {
			return 0, fmt.Errorf("%d of %d bytes: %w: %w", b.offset, b.desc.Size, err, errdefs.ErrUnavailable)
		}
		if err := b.reopen(); err != nil {
			return 0, err
		}
	}
}

// readSome reads once and watches the pace.
func (b *body) readSome(p []byte) (int, error) {
	pace := b.repo.pace
	if b.timer != nil {
		b.timer.Reset(pace.stall)
		defer b.timer.Stop()
	}
	start := time.Now()
	n, err := b.rc.Read(p)
	b.waited += time.Since(start)
	b.got += int64(n)
	if b.waited >= pace.window {
		if b.got < pace.bytes && b.cut != nil {
			b.slow++
			b.cut(fmt.Errorf("only %d bytes in %v: %w", b.got, b.waited.Round(time.Second), errdefs.ErrUnavailable))
		}
		b.waited, b.got = 0, 0
	}
	return n, err
}

// reopen continues at the offset, after a pause.
func (b *body) reopen() error {
	b.rc.Close()
	if err := b.repo.sleep(b.ctx, backOff(b.failed)); err != nil {
		return err
	}
	if err := b.open(); err != nil {
		b.rc = io.NopCloser(bytes.NewReader(nil))
		return err
	}
	return nil
}

func (b *body) Close() error {
	err := b.rc.Close()
	if b.cut != nil {
		b.cut(nil)
	}
	return err
}

// open connects to the first host that has the blob. A layer that is kept
// elsewhere is asked for there last.
func (b *body) open() error {
	if b.cut != nil {
		b.cut(nil)
	}
	ctx, cut := context.WithCancelCause(b.ctx)
	b.cut, b.waited, b.got = cut, 0, 0
	stall := b.repo.pace.stall
	b.timer = time.AfterFunc(stall, func() {
		cut(fmt.Errorf("not a byte in %v: %w", stall, errdefs.ErrUnavailable))
	})
	b.timer.Stop() // the request has a timeout of its own
	rc, err := b.repo.open(ctx, b.desc, span{b.offset, b.end, b.desc.Size})
	if err != nil {
		cut(nil)
		return err
	}
	_, b.ranged = rc.(ranged)
	b.rc = &explained{rc, ctx}
	return nil
}

// explained is a body whose error is why its context was cancelled, if it was.
type explained struct {
	io.ReadCloser
	ctx context.Context // of the connection
}

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && err != io.EOF && e.ctx.Err() != nil {
		err = context.Cause(e.ctx)
	}
	return n, err
}

// open asks each host, and then each URL of the descriptor.
func (r *Repository) open(ctx context.Context, desc ocispec.Descriptor, at span) (rc io.ReadCloser, err error) {
	err = r.each(ctx, canPull, func(h *host, last bool) error {
		rc, err = r.fetchAt(ctx, h, desc, at, last)
		return err
	})
	if err == nil || !errdefs.IsNotFound(err) {
		return rc, err
	}
	for _, raw := range desc.URLs {
		if rc, ferr := r.fetchURL(ctx, raw, at); ferr == nil {
			return rc, nil
		}
	}
	return nil, err
}

func (r *Repository) fetchAt(ctx context.Context, h *host, desc ocispec.Descriptor, at span, last bool) (io.ReadCloser, error) {
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
	return h.get(ctx, req, at)
}

// fetchURL gets a blob from outside of the registry, without credentials.
func (r *Repository) fetchURL(ctx context.Context, raw string, at span) (io.ReadCloser, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%s: unsupported scheme: %w", raw, errdefs.ErrInvalidArgument)
	}
	h, err := newHost(site{scheme: u.Scheme, address: u.Host, can: canPull}, u.Host, Options{sleep: r.sleep})
	if err != nil {
		return nil, err
	}
	return h.get(ctx, request{method: http.MethodGet, url: u}, at)
}

// span is a part of a blob: from offset up to end, of size bytes altogether.
type span struct{ offset, end, size int64 }

// header asks for the part, or is empty for the whole.
func (s span) header() string {
	switch {
	case s.end < s.size:
		return fmt.Sprintf("bytes=%d-%d", s.offset, s.end-1)
	case s.offset > 0:
		return fmt.Sprintf("bytes=%d-", s.offset)
	}
	return ""
}

// ranged marks the body of an answer that holds only what was asked for.
type ranged struct{ io.ReadCloser }

// get reads a body from an offset on, by a range where the server knows them.
func (h *host) get(ctx context.Context, req request, at span) (io.ReadCloser, error) {
	if v := at.header(); v != "" {
		if req.header == nil {
			req.header = http.Header{}
		}
		req.header.Set("Range", v)
	}
	resp, err := h.do(ctx, req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && at.header() != "":
		if err := checkRange(resp, at.offset); err != nil {
			drain(resp)
			return nil, err
		}
		return ranged{resp.Body}, nil
	case resp.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, resp.Body, at.offset); err != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("%s: skip %d bytes: %w: %w", h.where(req), at.offset, err, errdefs.ErrUnavailable)
		}
		return resp.Body, nil
	}
	return nil, h.unexpected(req, resp)
}

// checkRange makes sure that the server sends from where it was asked to.
func checkRange(resp *http.Response, offset int64) error {
	var from int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != offset {
		return fmt.Errorf("range %q instead of one from %d: %w", resp.Header.Get("Content-Range"), offset, errors.Join(err, errdefs.ErrUnavailable))
	}
	return nil
}
