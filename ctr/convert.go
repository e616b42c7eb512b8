// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"errors"
	"fmt"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	"slipway/client"
	"slipway/diff"
	"slipway/image/convert"
)

func convertImage(f flagSet) action {
	packed := map[diff.Compression]*bool{
		diff.None: f.Bool("uncompress", false, "Unpack the layers"),
		diff.Gzip: f.Bool("gzip", false, "Pack the layers with gzip"),
		diff.Zstd: f.Bool("zstd", false, "Pack the layers with zstd; implies --oci"),
	}
	oci := f.Bool("oci", false, "Replace Docker's media types by OCI's")
	erofs := f.String("erofs", "", "Convert the layers to EROFS")
	f.String("erofs-compressors", "", "Compression of EROFS layers")
	f.String("erofs-mkfs-options", "", "Options of mkfs.erofs")
	platform := platformFlag(f)
	all := f.Bool("all-platforms", false, "Convert the image of every platform that is there")
	return func(s *session, args []string) error {
		if arg(args, 0) == "" || arg(args, 1) == "" {
			return errors.New("src and target image need to be specified")
		}
		if *erofs != "" {
			return fmt.Errorf("convert image to EROFS: %w", errdefs.ErrNotImplemented)
		}
		opts := convert.Options{OCI: *oci}
		for c, wanted := range packed {
			switch {
			case *wanted && opts.Layers != nil:
				return errors.New("only one of --uncompress, --gzip and --zstd can be used")
			case *wanted:
				opts.Layers = &c
			}
		}
		if !*all {
			var err error
			if opts.Platform, err = matcher(*platform, platforms.DefaultStrict()); err != nil {
				return err
			}
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		return s.convert(c, args[0], args[1], opts)
	}
}

func (s *session) convert(c *client.Client, from, to string, opts convert.Options) error {
	ctx, done, err := c.WithLease(s.ctx, 0)
	if err != nil {
		return err
	}
	defer s.later(done)
	resp, err := c.Images().Get(ctx, &imagesapi.GetImageRequest{Name: from})
	if err != nil {
		return err
	}
	target, err := convert.Image(ctx, c.Store(), client.Descriptor(resp.Image.Target), opts)
	if err != nil {
		return fmt.Errorf("image %s: convert: %w", from, err)
	}
	i := &imagesapi.Image{Name: to, Target: client.DescriptorProto(target), Labels: resp.Image.Labels}
	_, err = c.Images().Create(ctx, &imagesapi.CreateImageRequest{Image: i})
	if errdefs.IsAlreadyExists(err) {
		_, err = c.Images().Update(ctx, &imagesapi.UpdateImageRequest{Image: i})
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, target.Digest)
	return nil
}
