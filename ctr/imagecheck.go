// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/client"
	"slipway/content"
	"slipway/ctr/progress"
	"slipway/image"
)

// presence is what of an image is in the store.
type presence struct {
	status       string
	blobs, there int
	size, have   int64
	unpacked     bool
}

func checkImages(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the names of images that are complete and unpacked")
	name := snapshotter(f)
	return func(s *session, filters []string) error {
		c, all, err := s.images(filters)
		if err != nil {
			return fmt.Errorf("failed listing images: %w", err)
		}
		sn, err := c.Snapshotter(s.ctx, *name)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil
		}
		w := s.table(1, 1, "REF\tTYPE\tDIGEST\tSTATUS\tSIZE\tUNPACKED\t")
		for _, i := range all {
			p, err := check(s.ctx, c, i, sn)
			if err != nil {
				return fmt.Errorf("image %s: check: %w", i.Name, err)
			}
			if *quiet {
				if p.status == "complete" && p.unpacked {
					fmt.Fprintln(s.out, i.Name)
				}
				continue
			}
			size := "-"
			if p.blobs > 0 {
				size = progress.Bytes(p.have) + "/" + progress.Bytes(p.size)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s (%d/%d)\t%s\t%t\n", i.Name, i.Target.MediaType, i.Target.Digest, p.status, p.there, p.blobs, size, p.unpacked)
		}
		if *quiet {
			return nil
		}
		return w.Flush()
	}
}

// check counts the config and the layers of the image for this machine.
func check(ctx context.Context, c *client.Client, i *imagesapi.Image, snapshotter string) (p presence, err error) {
	store := c.Store()
	m, err := image.Manifest(ctx, store, client.Descriptor(i.Target), platforms.Default())
	if errdefs.IsNotFound(err) {
		p.status = "incomplete"
		return p, nil
	}
	if err != nil {
		return p, err
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		p.blobs++
		p.size += d.Size
		if _, err := store.Info(ctx, d.Digest); err == nil {
			p.there++
			p.have += d.Size
		} else if !errdefs.IsNotFound(err) {
			return p, err
		}
	}
	p.status = "complete"
	if p.there < p.blobs {
		p.status = "incomplete"
	}
	config, err := image.ReadConfig(ctx, store, m.Config)
	if err != nil {
		return p, ignoreNotFound(err)
	}
	chain := image.ChainIDs(config.RootFS.DiffIDs)
	if len(chain) == 0 {
		p.unpacked = true
		return p, nil
	}
	_, err = c.Snapshots().Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: chain[len(chain)-1].String()})
	p.unpacked = err == nil
	return p, ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func inspectImage(f flagSet) action {
	documents := f.Bool("content", false, "Print the documents as well")
	return func(s *session, args []string) error {
		name := arg(args, 0)
		if name == "" {
			return errors.New("please provide an image reference to inspect")
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: name})
		if err != nil {
			return err
		}
		i := resp.Image
		fmt.Fprintf(s.out, "%s\n│    Created: %v\n│    Updated: %v\n", i.Name, i.CreatedAt.AsTime(), i.UpdatedAt.AsTime())
		for _, l := range pairs(i.Labels) {
			fmt.Fprintf(s.out, "│    Label %q\n", l)
		}
		return inspection{s, c.Store(), *documents}.print(client.Descriptor(i.Target), "", true, false)
	}
}

// An inspection prints what an image consists of as a tree.
type inspection struct {
	*session
	store     content.Store
	documents bool // also their labels and texts
}

// print prints a descriptor as a branch of the tree, and what it refers to.
// part says that it belongs to a manifest.
func (s inspection) print(d ocispec.Descriptor, indent string, last, part bool) error {
	branch, below := "├── ", "│   "
	if last {
		branch, below = "└── ", "    "
	}
	fmt.Fprintf(s.out, "%s%s%s @%s (%d bytes)\n", indent, branch, d.MediaType, d.Digest, d.Size)
	indent += below
	if d.Platform != nil {
		fmt.Fprintf(s.out, "%s│    Platform: %s\n", indent, platforms.Format(*d.Platform))
	}
	children, err := image.Children(s.ctx, s.store, d)
	if err != nil {
		return ignoreNotFound(err)
	}
	if s.documents {
		if err := s.document(d, indent, part); err != nil {
			return ignoreNotFound(err)
		}
	}
	for n, child := range children {
		if err := s.print(child, indent, n == len(children)-1, image.IsManifest(d.MediaType)); err != nil {
			return err
		}
	}
	return nil
}

// document prints the labels of a blob, and its text if that is JSON. The
// layers of a manifest have nothing to tell.
func (s inspection) document(d ocispec.Descriptor, indent string, part bool) error {
	switch {
	case part && !image.IsConfig(d.MediaType):
		return nil
	case !part:
		indent += "│   "
	}
	info, err := s.store.Info(s.ctx, d.Digest)
	if err != nil {
		return err
	}
	if len(info.Labels) > 0 {
		var lines []string
		for _, key := range slices.Sorted(maps.Keys(info.Labels)) {
			lines = append(lines, fmt.Sprintf("%q: %q", key, info.Labels[key]))
		}
		s.box("Labels─", lines, indent)
	}
	if !strings.HasSuffix(d.MediaType, "json") {
		return nil
	}
	var text, indented bytes.Buffer
	if err := copyBlob(s.ctx, s.store, d.Digest, &text); err != nil {
		return err
	}
	if err := json.Indent(&indented, text.Bytes(), "", "   "); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	s.box("Content", strings.Split(indented.String(), "\n"), indent)
	return nil
}

func (s inspection) box(title string, lines []string, indent string) {
	fmt.Fprintf(s.out, "%s┌────────%s────────\n", indent, title)
	for _, line := range lines {
		fmt.Fprintf(s.out, "%s│%s\n", indent, line)
	}
	fmt.Fprintf(s.out, "%s└───────────────────────\n", indent)
}

func imageUsage(f flagSet) action {
	name := snapshotter(f)
	return func(s *session, args []string) error {
		ref := arg(args, 0)
		if ref == "" {
			return errors.New("please provide an image reference to mount")
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		sn, err := c.Snapshotter(s.ctx, *name)
		if err != nil {
			return err
		}
		resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: ref})
		if err != nil {
			return fmt.Errorf("failed to ensure if image %s exists: %w", ref, err)
		}
		m, err := image.Manifest(s.ctx, c.Store(), client.Descriptor(resp.Image.Target), platforms.Default())
		if err != nil {
			return err
		}
		config, err := image.ReadConfig(s.ctx, c.Store(), m.Config)
		if err != nil {
			return err
		}
		chain := image.ChainIDs(config.RootFS.DiffIDs)
		w := s.table(1, 1, "KEY\tSIZE\tINODES\t")
		for n := len(chain) - 1; n >= 0; n-- { // from the top
			key := chain[n].String()
			u, err := c.Snapshots().Usage(s.ctx, &snapshotsapi.UsageRequest{Snapshotter: sn, Key: key})
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t\n", key, progress.Bytes(u.Size), u.Inodes)
		}
		return w.Flush()
	}
}
