// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"time"

	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/client"
	"slipway/ctr/progress"
	"slipway/image"
)

func exportImages(f flagSet) action {
	o := client.ExportOpts{}
	f.BoolVar(&o.SkipDockerManifest, "skip-manifest-json", false, "No manifest.json of Docker's format")
	f.BoolVar(&o.SkipNonDistributed, "skip-non-distributable", false, "No layers that may not be passed on")
	listVar(f, &o.Platforms, "platform", "", "Platform, as linux/arm64")
	f.BoolVar(&o.AllPlatforms, "all-platforms", false, "Write the images for every platform")
	f.Bool("local", false, "Write the archive from here; the daemon does it all the same")
	return func(s *session, args []string) error {
		out, images := arg(args, 0), args[min(1, len(args)):]
		if out == "" || len(images) == 0 {
			return errors.New("please provide both an output filename and an image reference to export")
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		o.ExtraReferenceNames = images[1:]
		if out == "-" {
			return c.Export(s.ctx, s.out, images[0], o, nil)
		}
		return writeFile(out, func(w io.Writer) error {
			p := progress.New(s.out, "Exporting", progress.Auto)
			err := c.Export(s.ctx, w, images[0], o, p.Update)
			p.End(err)
			return err
		})
	}
}

// writeFile makes a file that does not stay if it is not complete.
func writeFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(name)
		}
	}()
	return write(f)
}

// importFlags are those of import.
type importFlags struct {
	base, index, platform, snapshotter string
	digests, skipNamed, allPlatforms   bool
	noUnpack, compress, discard, local bool
	labels                             *[]string
}

func importImages(f flagSet) action {
	i := &importFlags{labels: labelFlag(f)}
	f.StringVar(&i.base, "base-name", "", "Name of images that have a tag only")
	f.BoolVar(&i.digests, "digests", false, "Name images by their digests as well")
	f.BoolVar(&i.skipNamed, "skip-digest-for-named", false, "No digest names for images with a name")
	f.StringVar(&i.index, "index-name", "", "Name of the index, which is not kept without one")
	f.BoolVar(&i.allPlatforms, "all-platforms", false, "Read the images for every platform")
	f.StringVar(&i.platform, "platform", "", "Platform to read")
	f.BoolVar(&i.noUnpack, "no-unpack", false, "Do not unpack")
	f.BoolVar(&i.local, "local", false, "Read the archive from here")
	f.BoolVar(&i.compress, "compress-blobs", false, "Compress layers that are not")
	f.BoolVar(&i.discard, "discard-unpacked-layers", false, "Let go of layers once they are unpacked, with --local")
	f.Bool("sync-fs", false, "Flush the file system after unpacking")
	f.StringVar(&i.snapshotter, "snapshotter", os.Getenv("CONTAINERD_SNAPSHOTTER"), "Name of the snapshotter (CONTAINERD_SNAPSHOTTER)")
	return func(s *session, args []string) error {
		in := arg(args, 0)
		switch {
		case in == "":
			return errors.New("please provide the name of an archive, or - for standard input")
		case i.noUnpack && i.discard:
			return errors.New("--no-unpack and --discard-unpacked-layers cannot be used together")
		}
		if !i.local {
			if err := needLocal(f, "discard-unpacked-layers"); err != nil {
				return err
			}
		}
		r := s.in
		if in != "-" {
			file, err := os.Open(in)
			if err != nil {
				return err
			}
			defer file.Close()
			r = file
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		p := progress.New(s.out, "Importing", progress.Auto)
		var saved []ocispec.Descriptor
		err = c.Import(s.ctx, r, i.opts(), func(step client.Progress) {
			if step.Event == "saved" && step.Desc != nil {
				saved = append(saved, *step.Desc)
			}
			p.Update(step)
		})
		p.End(err)
		if err != nil || !i.discard {
			return err
		}
		for _, target := range saved {
			if err := s.discardLayers(c.Store(), target); err != nil {
				return fmt.Errorf("image %s: let go of its layers: %w", target.Digest, err)
			}
		}
		return nil
	}
}

// discardLayers leaves the layers of what was unpacked to the collection.
func (s *session) discardLayers(store *client.Store, target ocispec.Descriptor) error {
	children, err := image.Children(s.ctx, store, target)
	if err != nil || !image.IsManifest(target.MediaType) {
		for _, child := range children {
			if err := s.discardLayers(store, child); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		return err
	}
	config, err := store.Info(s.ctx, children[0].Digest)
	if err != nil {
		return err
	}
	if !hasPrefix(config.Labels, "containerd.io/gc.ref.snapshot.") {
		return nil // not unpacked
	}
	manifest, err := store.Info(s.ctx, target.Digest)
	if err != nil {
		return err
	}
	const layer = "containerd.io/gc.ref.content.l."
	if !hasPrefix(manifest.Labels, layer) {
		return nil
	}
	maps.DeleteFunc(manifest.Labels, func(k, _ string) bool { return strings.HasPrefix(k, layer) })
	_, err = store.Update(s.ctx, manifest, "labels")
	return err
}

func hasPrefix(labels map[string]string, prefix string) bool {
	for k := range labels {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}

func (i *importFlags) opts() client.ImportOpts {
	base, overwrite := i.base, false
	if base == "" {
		base, overwrite = "import-"+time.Now().Format(time.DateOnly), true
	}
	ref := &wire.ImageReference{Name: base, IsPrefix: true, AllowOverwrite: overwrite}
	if i.digests {
		ref.AddDigest, ref.SkipNamedDigest = true, i.skipNamed
	}
	o := client.ImportOpts{
		Name: i.index, References: []*wire.ImageReference{ref}, Labels: labels(*i.labels), Compress: i.compress,
		Unpack: !i.noUnpack, Snapshotter: i.snapshotter,
	}
	switch {
	case i.platform != "":
		o.Platforms = []string{i.platform}
	case !i.allPlatforms:
		o.Platforms = []string{platforms.DefaultString()}
	}
	return o
}
