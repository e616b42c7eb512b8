// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxPages bounds how many answers make one list.
const maxPages = 100

// Referrers lists what refers to a manifest: signatures, SBOMs and the like,
// all of them or those of one artifact type. A registry without the API is
// asked for the tag that stands in for it (section "Referrers Tag Schema" of
// the distribution spec).
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest, artifactType string) (list []ocispec.Descriptor, err error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("%s: referrers of %q: %w: %w", r.ref, subject, err, errdefs.ErrInvalidArgument)
	}
	err = r.each(ctx, canReferrers, func(h *host, last bool) error {
		list, err = r.referrersAt(ctx, h, subject, artifactType, last)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: referrers of %s: %w", r.ref, subject, err)
	}
	if artifactType == "" {
		return list, nil
	}
	var some []ocispec.Descriptor // a registry need not have filtered
	for _, d := range list {
		if d.ArtifactType == artifactType {
			some = append(some, d)
		}
	}
	return some, nil
}

func (r *Repository) referrersAt(ctx context.Context, h *host, subject digest.Digest, artifactType string, last bool) ([]ocispec.Descriptor, error) {
	req := request{
		method: http.MethodGet, path: []string{r.name, "referrers", subject.String()}, scopes: r.pullScope(), patient: last,
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}},
	}
	if artifactType != "" {
		req.query = url.Values{"artifactType": {artifactType}}
	}
	var all []ocispec.Descriptor
	for page := 0; ; page++ {
		if page == maxPages {
			return nil, fmt.Errorf("more than the limit of %d pages: %w", maxPages, errdefs.ErrInvalidArgument)
		}
		some, next, err := h.index(ctx, req)
		if errdefs.IsNotFound(err) && page == 0 {
			return r.referrersTag(ctx, h, subject, last)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if next == nil {
			return all, nil
		}
		req.url = next
	}
}

// referrersTag reads the index under sha256-<hex>. None means no referrers.
func (r *Repository) referrersTag(ctx context.Context, h *host, subject digest.Digest, last bool) ([]ocispec.Descriptor, error) {
	req := request{
		method: http.MethodGet, path: []string{r.name, "manifests", subject.Algorithm().String() + "-" + subject.Encoded()},
		scopes: r.pullScope(), patient: last, header: manifestTypes,
	}
	list, _, err := h.index(ctx, req)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return list, err
}

// index reads the manifests of an index, and where its next page is.
func (h *host) index(ctx context.Context, req request) ([]ocispec.Descriptor, *url.URL, error) {
	resp, err := h.do(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, h.unexpected(req, resp)
	}
	defer drain(resp)
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return nil, nil, h.describe(req, err)
	}
	if len(data) > MaxManifest {
		return nil, nil, fmt.Errorf("index is larger than the limit of %d bytes: %w", MaxManifest, errdefs.ErrInvalidArgument)
	}
	var doc ocispec.Index
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, nil, fmt.Errorf("%s: index: %w: %w", h.where(req), err, errdefs.ErrInvalidArgument)
	}
	for _, d := range doc.Manifests {
		if err := d.Digest.Validate(); err != nil {
			return nil, nil, fmt.Errorf("%s: digest %q: %w: %w", h.where(req), d.Digest, err, errdefs.ErrInvalidArgument)
		}
	}
	next, err := h.nextPage(resp)
	return doc.Manifests, next, err
}

// nextPage reads a Link header (RFC 8288) with rel="next", which has to stay
// on this host.
func (h *host) nextPage(resp *http.Response) (*url.URL, error) {
	for _, link := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(params, `rel="next"`) && !strings.Contains(params, "rel=next") {
			continue
		}
		u, err := resp.Request.URL.Parse(target)
		if err != nil {
			return nil, fmt.Errorf("next page %q: %w: %w", target, err, errdefs.ErrInvalidArgument)
		}
		if u.Host != resp.Request.URL.Host {
			return nil, fmt.Errorf("next page %q is on another host: %w", target, errdefs.ErrInvalidArgument)
		}
		return u, nil
	}
	return nil, nil
}
