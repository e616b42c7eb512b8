// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// MaxManifest is the largest manifest or index in bytes.
const MaxManifest = 8 << 20

// manifestTypes is what a registry may answer a name with.
var manifestTypes = http.Header{"Accept": {strings.Join([]string{
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	ocispec.MediaTypeImageManifest,
	ocispec.MediaTypeImageIndex,
	"*/*",
}, ", ")}}

// pullScope is the right to read the repository.
func (r *Repository) pullScope() []string {
	return []string{auth.ScopeRepository(r.name, auth.ActionPull)}
}

// Resolve asks what the reference stands for. name is the reference.
func (r *Repository) Resolve(ctx context.Context) (name string, desc ocispec.Descriptor, err error) {
	err = r.each(ctx, canResolve, func(h *host, last bool) error {
		desc, err = r.resolveAt(ctx, h, last)
		return err
	})
	if errdefs.IsNotFound(err) {
		return "", desc, fmt.Errorf("%s: %w", r.ref, errdefs.ErrNotFound)
	}
	if err != nil {
		return "", desc, fmt.Errorf("failed to resolve image: %s: %w", r.ref, err)
	}
	return r.ref, desc, nil
}

func (r *Repository) resolveAt(ctx context.Context, h *host, last bool) (ocispec.Descriptor, error) {
	req := request{
		method: http.MethodHead, path: []string{r.name, "manifests", r.object},
		header: manifestTypes, scopes: r.pullScope(), patient: last,
	}
	resp, err := h.do(ctx, req)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		desc, complete, err := r.describe(resp)
		drain(resp)
		if complete || err != nil {
			return desc, err
		}
	case resp.StatusCode == http.StatusMethodNotAllowed, resp.StatusCode == http.StatusForbidden:
		drain(resp) // a GET may be allowed, and says more if it is not
	case resp.StatusCode == http.StatusNotFound && r.digest() != "":
		drain(resp)
		return r.resolveBlob(ctx, h, last)
	default:
		return ocispec.Descriptor{}, h.unexpected(req, resp)
	}
	return r.resolveByGet(ctx, h, last)
}

// describe reads the headers of an answer; complete says that they hold all
// that a descriptor needs.
func (r *Repository) describe(resp *http.Response) (desc ocispec.Descriptor, complete bool, err error) {
	desc = ocispec.Descriptor{MediaType: mediaType(resp), Digest: r.digest(), Size: resp.ContentLength}
	if desc.MediaType == "application/vnd.docker.distribution.manifest.v1+json" || desc.MediaType == "application/vnd.docker.distribution.manifest.v1+prettyjws" {
		return desc, false, fmt.Errorf("%s: manifests of schema 1 are not supported: %w", r.ref, errdefs.ErrNotImplemented)
	}
	if desc.Size > MaxManifest {
		return desc, false, fmt.Errorf("%s: manifest of %d bytes is larger than the limit of %d: %w", r.ref, desc.Size, MaxManifest, errdefs.ErrInvalidArgument)
	}
	if said := digest.Digest(resp.Header.Get("Docker-Content-Digest")); desc.Digest == "" && said != "" {
		if err := said.Validate(); err != nil {
			return desc, false, fmt.Errorf("%s: digest %q: %w: %w", r.ref, said, err, errdefs.ErrInvalidArgument)
		}
		desc.Digest = said
	}
	return desc, desc.Digest != "" && desc.Size > 0 && desc.MediaType != "", nil
}

func mediaType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// resolveByGet reads the manifest itself, for registries that answer a HEAD
// with less than is needed.
func (r *Repository) resolveByGet(ctx context.Context, h *host, last bool) (ocispec.Descriptor, error) {
	req := request{
		method: http.MethodGet, path: []string{r.name, "manifests", r.object},
		header: manifestTypes, scopes: r.pullScope(), patient: last,
	}
	resp, err := h.do(ctx, req)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return ocispec.Descriptor{}, h.unexpected(req, resp)
	}
	defer drain(resp)
	desc, _, err := r.describe(resp)
	if err != nil {
		return desc, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return desc, h.describe(req, err)
	}
	if len(data) > MaxManifest {
		return desc, fmt.Errorf("%s: manifest is larger than the limit of %d bytes: %w", r.ref, MaxManifest, errdefs.ErrInvalidArgument)
	}
	got := digest.FromBytes(data)
	if want := desc.Digest; want != "" && want.Algorithm() != got.Algorithm() {
		got = want.Algorithm().FromBytes(data)
	}
	if desc.Digest != "" && desc.Digest != got {
		return desc, fmt.Errorf("%s: manifest has digest %s, not %s: %w", r.ref, got, desc.Digest, errdefs.ErrFailedPrecondition)
	}
	desc.Digest, desc.Size = got, int64(len(data))
	return desc, nil
}

// resolveBlob is for a digest that is no manifest.
func (r *Repository) resolveBlob(ctx context.Context, h *host, last bool) (ocispec.Descriptor, error) {
	req := request{method: http.MethodHead, path: []string{r.name, "blobs", r.object}, scopes: r.pullScope(), patient: last}
	resp, err := h.do(ctx, req)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return ocispec.Descriptor{}, h.unexpected(req, resp)
	}
	drain(resp)
	if resp.ContentLength < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", r.ref, errors.New("the registry does not say how large it is"))
	}
	return ocispec.Descriptor{MediaType: mediaType(resp), Digest: r.digest(), Size: resp.ContentLength}, nil
}
