// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"errors"
	"fmt"
	"strings"

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
	erofs := erofsFlags(f)
	platform := platformFlag(f)
	all := f.Bool("all-platforms", false, "Convert the image of every platform that is there")
	return func(s *session, args []string) error {
		if arg(args, 0) == "" || arg(args, 1) == "" {
			return errors.New("src and target image need to be specified")
		}
		opts := convert.Options{OCI: *oci}
		var err error
		if opts.Erofs, err = erofs(); err != nil {
			return err
		}
		for c, wanted := range packed {
			switch {
			case *wanted && (opts.Layers != nil || opts.Erofs != nil):
				return errors.New("only one of --uncompress, --gzip, --zstd and --erofs can be used")
			case *wanted:
				opts.Layers = &c
			}
		}
		if !*all {
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

// erofsFlags declares what says how layers become images of EROFS. What it
// returns is nil if they do not.
func erofsFlags(f flagSet) func() (*convert.Erofs, error) {
	form := f.String("erofs", "", "Make images of EROFS of the layers, 'raw' or packed with 'zstd'; implies --oci")
	compressors := f.String("erofs-compressors", "", "Compression inside of EROFS layers, as lz4hc,12")
	options := f.String("erofs-mkfs-options", "", "More options of mkfs.erofs, as '-Efragments,dedupe'")
	return func() (*convert.Erofs, error) {
		switch *form {
		case "":
			if *compressors != "" || *options != "" {
				return nil, errors.New("--erofs-compressors and --erofs-mkfs-options go with --erofs")
			}
			return nil, nil
		case "raw", "zstd":
			return &convert.Erofs{Zstd: *form == "zstd", Compressors: *compressors, Mkfs: strings.Fields(*options)}, nil
		}
		return nil, fmt.Errorf("--erofs %q is neither raw nor zstd: %w", *form, errdefs.ErrInvalidArgument)
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
