// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/client"
	"slipway/content"
	"slipway/ctr/progress"
	"slipway/image"
	"slipway/registry"
)

func listReferrers(f flagSet) action {
	flags := registryOf(f)
	kind := f.String("artifact-type", "", "Only those of a type")
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errors.New("please provide an image reference")
		}
		repo, err := flags.repository(s, args[0])
		if err != nil {
			return err
		}
		_, desc, err := repo.Resolve(s.ctx)
		if err != nil {
			return err
		}
		list, err := repo.Referrers(s.ctx, desc.Digest, *kind)
		if err != nil {
			return err
		}
		w := s.table(1, 1, "DIGEST\tTYPE\tARTIFACT\tSIZE\tANNOTATIONS\t")
		for _, d := range list {
			artifact := d.ArtifactType
			if artifact == "" {
				artifact = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", d.Digest, d.MediaType, artifact, progress.Bytes(d.Size), orDash(pairs(d.Annotations)))
		}
		return w.Flush()
	}
}

// pushReferrers copies what refers to the image name in its registry, and to
// the manifests in it, to where the image was pushed.
func (s *session) pushReferrers(c *client.Client, flags *registryFlags, name, remote string) error {
	resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return err
	}
	ctx, done, err := c.WithLease(s.ctx, 0)
	if err != nil {
		return err
	}
	defer s.later(done)
	from, err := flags.repository(s, name)
	if err != nil {
		return err
	}
	to, err := flags.repository(s, remote)
	if err != nil {
		return err
	}
	if from.Host() == to.Host() && from.Name() == to.Name() {
		return nil
	}
	r := referring{s: s, flags: flags, store: c.Store(), from: from, to: to}
	target := client.Descriptor(resp.Image.Target)
	subjects := []ocispec.Descriptor{target}
	if image.IsIndex(target.MediaType) {
		children, err := image.Children(ctx, r.store, target)
		if err != nil {
			return err
		}
		subjects = append(subjects, children...)
	}
	for _, d := range subjects {
		if err := r.copy(ctx, d.Digest); err != nil {
			return fmt.Errorf("referrers of %s: %w", d.Digest, err)
		}
	}
	return nil
}

// referring copies referrers from one repository to another.
type referring struct {
	s        *session
	flags    *registryFlags
	store    *client.Store
	from, to *registry.Repository
}

func (r referring) copy(ctx context.Context, subject digest.Digest) error {
	list, err := r.from.Referrers(ctx, subject, "")
	if err != nil || len(list) == 0 {
		return err
	}
	get := &fetching{localPull: localPull{layers: true, atOnce: 3}, repo: r.from, store: r.store, want: platforms.All}
	for _, d := range list {
		if err := get.tree(ctx, d, "", true); err != nil {
			return err
		}
		if err := pushTree(ctx, r.to, r.store, d, nil, false); err != nil {
			return err
		}
		fmt.Fprintf(r.s.out, "%s %s\n", d.Digest, d.ArtifactType)
	}
	return r.announce(ctx, subject, list)
}

// announce lists referrers under the tag that stands in for the API, if the
// registry does not list them by itself (section "Referrers Tag Schema" of the
// distribution spec).
func (r referring) announce(ctx context.Context, subject digest.Digest, list []ocispec.Descriptor) error {
	known, err := r.to.Referrers(ctx, subject, "")
	if err != nil {
		return err
	}
	all := known
	for _, d := range list {
		if !slices.ContainsFunc(known, func(k ocispec.Descriptor) bool { return k.Digest == d.Digest }) {
			all = append(all, d)
		}
	}
	if len(all) == len(known) {
		return nil
	}
	data, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: all})
	if err != nil {
		return err
	}
	index := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	opts := content.WriterOpts{Ref: image.IngestRef(index), Total: index.Size, Expected: index.Digest}
	if _, err := ingest(ctx, r.store, opts, bytes.NewReader(data), image.RefLabels(all)); err != nil {
		return err
	}
	tag := fmt.Sprintf("%s/%s:%s-%s", r.to.Host(), r.to.Name(), subject.Algorithm(), subject.Encoded())
	repo, err := r.flags.repository(r.s, tag)
	if err != nil {
		return err
	}
	return pushOne(ctx, repo, r.store, index, true)
}
