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
	estargz := estargzFlags(f)
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
		if opts.Estargz, err = estargz(); err != nil {
			return err
		}
		forms := 0
		for c, wanted := range packed {
			if *wanted {
				opts.Layers = &c
				forms++
			}
		}
		if opts.Erofs != nil {
			forms++
		}
		if opts.Estargz != nil {
			forms++
		}
		if forms > 1 {
			return errors.New("only one of --uncompress, --gzip, --zstd, --erofs and --estargz can be used")
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

// estargzFlags declares what says how layers become eStargz. What it returns is
// nil if they do not.
func estargzFlags(f flagSet) func() (*convert.Estargz, error) {
	wanted := f.Bool("estargz", false, "Make eStargz of the layers, which can be fetched file by file; implies --oci")
	level := f.Int("estargz-compression-level", 9, "How hard to pack eStargz, 1 to 9")
	chunk := f.Int("estargz-chunk-size", 0, "Bytes of a file that can be fetched alone from eStargz, 0 for 4 MiB")
	return func() (*convert.Estargz, error) {
		switch {
		case !*wanted && (f.Changed("estargz-compression-level") || f.Changed("estargz-chunk-size")):
			return nil, errors.New("--estargz-compression-level and --estargz-chunk-size go with --estargz")
		case !*wanted:
			return nil, nil
		case *level < 1 || *level > 9:
			return nil, fmt.Errorf("--estargz-compression-level %d is not 1 to 9: %w", *level, errdefs.ErrInvalidArgument)
		case *chunk < 0:
			return nil, fmt.Errorf("--estargz-chunk-size %d is negative: %w", *chunk, errdefs.ErrInvalidArgument)
		}
		return &convert.Estargz{Level: *level, ChunkSize: *chunk}, nil
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
