// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"slipway/client"
	"slipway/content"
	"slipway/ctr/progress"
	"slipway/image"
	"slipway/internal/reference"
)

func imageCommands() []command {
	return []command{
		{use: "check [FILTER...]", short: "Tell whether images are complete", declare: checkImages},
		{use: "export OUT IMAGE...", short: "Write images to an archive, - for standard output", declare: exportImages},
		{use: "import IN", short: "Read images from an archive, - for standard input", declare: importImages},
		{use: "fsck [IMAGE...]", short: "Verify the blobs and the unpacked layers of images", declare: fsckImages, names: imageNames},
		{use: "inspect IMAGE", aliases: []string{"i"}, short: "Print what an image consists of", declare: inspectImage, names: imageNames},
		{use: "list [FILTER...]", aliases: []string{"ls"}, short: "List images", declare: listImages},
		{use: "mount IMAGE [TARGET]", short: "Mount an image", declare: mountImage, names: imageNames},
		{use: "unmount TARGET", short: "Unmount an image", declare: unmountImage},
		{use: "pull REF", short: "Pull an image from its registry", declare: pull},
		{use: "push REMOTE [LOCAL]", short: "Push an image to a registry", declare: push, names: imageNames},
		{use: "prune", short: "Remove images that no container uses", declare: pruneImages},
		{use: "delete REF...", aliases: []string{"del", "remove", "rm"}, short: "Remove images", declare: deleteImages, names: imageNames},
		{use: "tag SOURCE TARGET...", short: "Give an image more names", declare: tagImage, names: imageNames},
		{use: "label NAME KEY=VALUE...", short: "Set labels, or clear those whose value is empty", declare: labelImage, names: imageNames},
		{use: "convert SOURCE TARGET", short: "Convert an image", declare: convertImage, names: imageNames},
		{use: "referrers REF", short: "List what refers to an image in its registry", declare: listReferrers, names: imageNames},
		{use: "usage REF", short: "Print what the snapshots of an image take", declare: imageUsage, names: imageNames},
	}
}

// images asks for the images that a filter matches.
func (s *session) images(filters []string) (*client.Client, []*imagesapi.Image, error) {
	c, err := s.dial()
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Images().List(s.ctx, &imagesapi.ListImagesRequest{Filters: filters})
	return c, resp.GetImages(), err
}

func imageNames(s *session) (names []string, err error) {
	_, all, err := s.images(nil)
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names, err
}

func listImages(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the names")
	return func(s *session, filters []string) error {
		c, all, err := s.images(filters)
		if err != nil {
			return fmt.Errorf("failed to list images: %w", err)
		}
		if *quiet {
			for _, i := range all {
				fmt.Fprintln(s.out, i.Name)
			}
			return nil
		}
		w := s.table(1, 1, "REF\tTYPE\tDIGEST\tSIZE\tPLATFORMS\tLABELS\t")
		for _, i := range all {
			target := client.Descriptor(i.Target)
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", i.Name, target.MediaType, target.Digest,
				s.imageSize(c.Store(), i.Name, target), s.imagePlatforms(c.Store(), i.Name, target), orDash(pairs(i.Labels)))
		}
		return w.Flush()
	}
}

// imageSize is what an image for this machine takes in the store.
func (s *session) imageSize(store content.Store, name string, target ocispec.Descriptor) string {
	var size int64
	err := walk(s.ctx, store, target, platforms.Default(), func(d ocispec.Descriptor) error {
		info, err := store.Info(s.ctx, d.Digest)
		if errdefs.IsNotFound(err) {
			return nil
		}
		size += info.Size
		return err
	})
	if err != nil {
		s.log().Error("size of image "+name, "error", err)
	}
	return progress.Bytes(size)
}

func (s *session) imagePlatforms(store content.Store, name string, target ocispec.Descriptor) string {
	list, err := image.Platforms(s.ctx, store, target)
	if err != nil {
		s.log().Error("platforms of image "+name, "error", err)
		return "-"
	}
	var names []string
	for _, p := range list {
		if p.OS == "unknown" && p.Architecture == "unknown" { // attestations
			continue
		}
		names = append(names, platforms.FormatAll(p))
	}
	slices.Sort(names)
	return orDash(slices.Compact(names))
}

// walk visits desc and what it refers to, for one platform. What is not there
// has no children.
func walk(ctx context.Context, p content.Provider, desc ocispec.Descriptor, want platforms.MatchComparer, visit func(ocispec.Descriptor) error) error {
	if err := visit(desc); err != nil {
		return err
	}
	children, err := image.Children(ctx, p, desc)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range forPlatform(desc, children, want) {
		if err := walk(ctx, p, d, want, visit); err != nil {
			return err
		}
	}
	return nil
}

// forPlatform keeps the best manifest of an index.
func forPlatform(parent ocispec.Descriptor, children []ocispec.Descriptor, want platforms.MatchComparer) []ocispec.Descriptor {
	if want == nil || !image.IsIndex(parent.MediaType) {
		return children
	}
	var best []ocispec.Descriptor
	for _, d := range children {
		switch {
		case d.Platform == nil:
			best = append(best, d)
		case !want.Match(*d.Platform):
		case len(best) == 0 || best[0].Platform == nil || want.Less(*d.Platform, *best[0].Platform):
			best = []ocispec.Descriptor{d}
		}
	}
	return best
}

func tagImage(f flagSet) action {
	force := f.Bool("force", false, "Replace an image of the target's name, with --local")
	local := f.Bool("local", false, "Make the names from here, not by the transfer service")
	skip := f.Bool("skip-reference-check", false, "Take names as they are")
	return func(s *session, args []string) error {
		switch {
		case arg(args, 0) == "":
			return errors.New("please provide an image reference to tag from")
		case arg(args, 1) == "":
			return errors.New("please provide an image reference to tag to")
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		for _, name := range args[1:] {
			if !*skip {
				if err := reference.Check(name); err != nil {
					return fmt.Errorf("error parsing reference: %q is not a valid repository/tag %w", name, err)
				}
			}
			tag := s.tagByTransfer
			if *local {
				tag = s.tagLocally
			}
			if err := tag(c, args[0], name, *force); err != nil {
				return err
			}
			fmt.Fprintln(s.out, name)
		}
		return nil
	}
}

func (s *session) tagByTransfer(c *client.Client, from, to string, _ bool) error {
	return c.Tag(s.ctx, from, to)
}

func (s *session) tagLocally(c *client.Client, from, to string, force bool) error {
	resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: from})
	if err != nil {
		return err
	}
	i := &imagesapi.Image{Name: to, Target: resp.Image.Target, Labels: resp.Image.Labels}
	_, err = c.Images().Create(s.ctx, &imagesapi.CreateImageRequest{Image: i})
	if errdefs.IsAlreadyExists(err) && force {
		_, err = c.Images().Update(s.ctx, &imagesapi.UpdateImageRequest{Image: i})
	}
	return err
}

func deleteImages(f flagSet) action {
	sync := f.Bool("sync", false, "Wait until what nothing else keeps is gone")
	return func(s *session, args []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		for i, name := range args {
			r := &imagesapi.DeleteImageRequest{Name: name, Sync: *sync && i == len(args)-1}
			_, derr := c.Images().Delete(s.ctx, r)
			switch {
			case derr == nil:
				fmt.Fprintln(s.out, name)
			case errdefs.IsNotFound(derr):
				s.log().Warn(name + ": image not found")
			default:
				if err == nil {
					err = fmt.Errorf("unable to delete %v: %w", name, derr)
				}
				s.log().Error("unable to delete "+name, "error", derr)
			}
		}
		return err
	}
}

func labelImage(f flagSet) action {
	replace := f.BoolP("replace-all", "r", false, "Replace all labels")
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errors.New("please specify an image")
		}
		changes := labels(args[1:])
		r := &imagesapi.UpdateImageRequest{
			// containerd 2.3.4 fails without a target even if it is masked.
			Image:      &imagesapi.Image{Name: args[0], Labels: changes, Target: &types.Descriptor{}},
			UpdateMask: &fieldmaskpb.FieldMask{},
		}
		if *replace {
			r.UpdateMask.Paths = []string{"labels"}
		} else {
			for key := range changes {
				r.UpdateMask.Paths = append(r.UpdateMask.Paths, "labels."+key)
			}
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Images().Update(s.ctx, r)
		if err != nil {
			return err
		}
		fmt.Fprintln(s.out, strings.Join(pairs(resp.Image.Labels), ","))
		return nil
	}
}

func pruneImages(f flagSet) action {
	all := f.Bool("all", false, "Remove all images that no container uses")
	return func(s *session, _ []string) error {
		if !*all {
			s.log().Warn("No images pruned. `image prune` requires --all to be specified.")
			return nil
		}
		c, images, err := s.images(nil)
		if err != nil {
			return err
		}
		used := make(map[string]bool)
		containers, err := c.ListContainers(s.ctx)
		if err != nil {
			return err
		}
		for _, r := range containers {
			used[r.Image] = true
		}
		images = slices.DeleteFunc(images, func(i *imagesapi.Image) bool { return used[i.Name] })
		for n, i := range images {
			if _, err := c.Images().Delete(s.ctx, &imagesapi.DeleteImageRequest{Name: i.Name, Sync: n == len(images)-1}); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			fmt.Fprintln(s.out, i.Name)
		}
		return nil
	}
}
