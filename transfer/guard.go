// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/image"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/policy"
	"slipway/registry"
)

// Guard judges what runs by the policy that judges pulls and imports. The
// signatures are those that came with the image: a pull and an import keep
// what the policy asked for, and the image refers to it.
type Guard struct {
	DB     *meta.DB
	Policy *policy.File // nil allows everything
}

// Admit fails if no task may be created from the image of that name, which is
// that of the container; empty if it has none.
func (g Guard) Admit(ctx context.Context, ns ident.Namespace, name string) error {
	if g.Policy == nil {
		return nil
	}
	scope := ident.Scope{Namespace: ns}
	var img meta.Image
	if name != "" {
		var err error
		if img, err = g.DB.Images(scope).Get(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	_, err := g.Policy.Check(ctx, name, img.Target, storedSignatures{store: g.DB.Content(scope)})
	return err
}

// remoteSignatures are those of a repository: referrers, and the tag
// sha256-<hex>.sig of cosign.
type remoteSignatures struct {
	repo *registry.Repository
	opts registry.Options
}

func (s remoteSignatures) Signatures(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	list, err := s.repo.Referrers(ctx, subject, "")
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return !policy.MayHold(d) })
	tag := fmt.Sprintf("%s/%s:%s-%s.sig", s.repo.Host(), s.repo.Name(), subject.Algorithm(), subject.Encoded())
	tagged, err := registry.New(tag, s.opts)
	if err != nil {
		return nil, err
	}
	_, desc, err := tagged.Resolve(ctx)
	if errdefs.IsNotFound(err) {
		return list, nil
	}
	return append(list, desc), err
}

func (s remoteSignatures) Read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	r, err := s.repo.Fetch(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, desc.Size)
	_, err = io.ReadFull(r, data)
	return data, err
}

// labelReferrer is the beginning of the label by which an image keeps what
// refers to it.
const labelReferrer = "containerd.io/gc.ref.content.referrer."

// storedSignatures are those in the content store: what the image refers to,
// and those that an archive lists.
type storedSignatures struct {
	store  *meta.Content
	listed []ocispec.Descriptor
}

func (s storedSignatures) Signatures(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	info, err := s.store.Info(ctx, subject)
	if err != nil {
		return nil, err
	}
	list := slices.Clone(s.listed)
	for k, v := range info.Labels {
		if !strings.HasPrefix(k, labelReferrer) {
			continue
		}
		i, err := s.store.Info(ctx, digest.Digest(v))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: i.Digest, Size: i.Size})
	}
	return list, nil
}

func (s storedSignatures) Read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	r, err := s.store.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() != desc.Size {
		return nil, fmt.Errorf("%s has %d bytes, not %d: %w", desc.Digest, r.Size(), desc.Size, errdefs.ErrInvalidArgument)
	}
	data := make([]byte, desc.Size)
	_, err = io.ReadFull(io.NewSectionReader(r, 0, desc.Size), data)
	return data, err
}

// archivedSignatures finds the signatures among what an archive lists. What
// each of them is for, its content says.
func (p *pull) archivedSignatures(ctx context.Context, index ocispec.Index) (storedSignatures, error) {
	s := storedSignatures{store: p.store}
	for _, d := range index.Manifests {
		if !image.IsManifest(d.MediaType) || p.present(ctx, newPending(d), "") != nil {
			continue
		}
		m, err := image.ReadManifest(ctx, p.store, d)
		if err != nil {
			return s, err
		}
		if policy.IsSignature(m) {
			s.listed = append(s.listed, d)
		}
	}
	return s, nil
}

// admitArchived judges all that an import is about to record, but for the
// signatures themselves.
func (p *pull) admitArchived(ctx context.Context, index ocispec.Index, all []meta.Image) error {
	if p.Policy == nil {
		return nil
	}
	from, err := p.archivedSignatures(ctx, index)
	if err != nil {
		return err
	}
	for _, img := range all {
		if slices.ContainsFunc(from.listed, func(d ocispec.Descriptor) bool { return d.Digest == img.Target.Digest }) {
			continue
		}
		found, err := p.Policy.Check(ctx, img.Name, img.Target, from)
		if err != nil {
			return err
		}
		if err := p.keep(ctx, img.Target.Digest, found); err != nil {
			return err
		}
	}
	return nil
}

// keep stores a signature, for as long as the image is there.
func (p *pull) keep(ctx context.Context, subject digest.Digest, found policy.Evidence) error {
	if len(found) == 0 {
		return nil
	}
	sig, blob := found[0].Desc, found[1].Desc
	if err := p.put(ctx, found[1], nil); err != nil {
		return err
	}
	if err := p.put(ctx, found[0], image.RefLabels([]ocispec.Descriptor{blob})); err != nil {
		return err
	}
	key := labelReferrer + sig.Digest.Algorithm().String() + "." + sig.Digest.Encoded()[:12]
	return p.label(ctx, subject, map[string]string{key: sig.Digest.String()})
}

// put stores a document that may be there already.
func (p *pull) put(ctx context.Context, d policy.Document, labels map[string]string) error {
	w, err := p.writer(ctx, d.Desc)
	if err == nil {
		defer w.Close()
		err = write(ctx, w, d.Desc, d.Data, labels)
	}
	if errdefs.IsAlreadyExists(err) {
		return p.label(ctx, d.Desc.Digest, labels)
	}
	return err
}

// write fills an ingest, which may be complete already, and commits it.
func write(ctx context.Context, w content.Writer, desc ocispec.Descriptor, data []byte, labels map[string]string) error {
	st, err := w.Status()
	if err != nil {
		return err
	}
	if st.Offset < desc.Size {
		if err := w.Truncate(0); err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
			return err
		}
	}
	return w.Commit(ctx, desc.Size, desc.Digest, labels)
}
