// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/image/archive"
	"slipway/internal/fault"
	"slipway/internal/ident"
	"slipway/meta"
)

// Reference is a further name for what is stored.
type Reference struct {
	Name string
	// IsPrefix makes Name the repository of the images in an archive: one
	// whose name is only a tag becomes <Name>:<tag>.
	IsPrefix bool
	// AllowOverwrite takes images of an archive whose full name does not begin
	// with the prefix as well.
	AllowOverwrite bool
	// AddDigest adds <Name>@<digest>.
	AddDigest bool
	// SkipNamedDigest adds no digest name to an image of an archive that has a
	// name.
	SkipNamedDigest bool
}

// image gives what desc is stored as under one name.
func (o StoreOpts) image(name string, desc ocispec.Descriptor) meta.Image {
	return meta.Image{Name: name, Target: desc, Labels: o.Labels}
}

// further gives what desc is stored as under one more name. If the whole has a
// name, this one lives as long as that: it expires at once and is kept by a back
// reference.
func (o StoreOpts) further(name string, desc ocispec.Descriptor) meta.Image {
	img := o.image(name, desc)
	if o.Name == "" || o.Name == name {
		return img
	}
	img.Labels = maps.Clone(o.Labels)
	if img.Labels == nil {
		img.Labels = map[string]string{}
	}
	img.Labels["containerd.io/gc.bref.image"] = o.Name
	img.Labels["containerd.io/gc.expire"] = time.Now().UTC().Format(time.RFC3339)
	return img
}

// names gives the images to record for desc, which is the whole of what was
// transferred. Of a prefix it takes the digest name only: the rest is made of
// the names in an archive.
func (o StoreOpts) names(desc ocispec.Descriptor) (all []meta.Image) {
	if o.Name != "" {
		all = append(all, o.image(o.Name, desc))
	}
	for _, ref := range o.References {
		switch {
		case ref.AddDigest:
			all = append(all, o.further(digestName(ref, desc), desc))
		case !ref.IsPrefix:
			all = append(all, o.further(ref.Name, desc))
		}
	}
	return all
}

func digestName(ref Reference, desc ocispec.Descriptor) string {
	return ref.Name + "@" + desc.Digest.String()
}

// archived gives the images to record for one that an archive lists.
func (o StoreOpts) archived(desc ocispec.Descriptor) (all []meta.Image) {
	for _, ref := range o.References {
		if !ref.IsPrefix {
			continue
		}
		name := archive.Name(desc.Annotations, ref.Name, !ref.AllowOverwrite)
		if name != "" {
			all = append(all, o.further(name, desc))
		}
		if ref.AddDigest && (name == "" || !ref.SkipNamedDigest) {
			all = append(all, o.further(digestName(ref, desc), desc))
		}
	}
	return all
}

// byDigest names images without a name after the first prefix.
func (o StoreOpts) byDigest(list []ocispec.Descriptor) (all []meta.Image) {
	for _, ref := range o.References {
		if ref.IsPrefix && ref.AllowOverwrite {
			for _, desc := range list {
				all = append(all, o.image(digestName(ref, desc), desc))
			}
			break
		}
	}
	return all
}

// save records images, moving names that exist. No image is
// errdefs.ErrNotFound.
func (s *Service) save(ctx context.Context, scope ident.Scope, all []meta.Image, parent string, report Report) error {
	if len(all) == 0 {
		return fmt.Errorf("no image name to store: %w", errdefs.ErrNotFound)
	}
	for _, img := range all {
		if err := s.record(ctx, scope, img); err != nil {
			return err
		}
		report(Progress{Event: "saved", Name: img.Name, Parents: []string{parent}, Desc: &img.Target})
	}
	return nil
}

// record creates the image, or moves its name. Somebody else may create or
// remove the name at the same time: then it is tried again.
func (s *Service) record(ctx context.Context, scope ident.Scope, img meta.Image) error {
	images := s.DB.Images(scope)
	fields := []string{"target"}
	for k := range img.Labels {
		fields = append(fields, "labels."+k)
	}
	fault.Point("transfer.image.recording")
	for {
		_, err := images.Create(ctx, img)
		if !errdefs.IsAlreadyExists(err) {
			return err
		}
		_, err = images.Update(ctx, img, fields...)
		if !errdefs.IsNotFound(err) || ctx.Err() != nil {
			return err
		}
	}
}
