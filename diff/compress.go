// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression is how a layer is packed.
type Compression uint8

const (
	None Compression = iota
	Gzip
	Zstd
)

// Detect tells by the first four bytes of a stream how it is packed.
func Detect(head []byte) Compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 0x08}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd // a skippable frame first, RFC 8878 section 3.1.2
	}
	return None
}

// maxWindow bounds the memory in bytes that a zstd stream may ask for.
const maxWindow = 128 << 20

// Decompress unpacks a stream, told by its first bytes.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	buf := bufio.NewReaderSize(r, 64<<10)
	head, err := buf.Peek(4)
	if err != nil && err != io.EOF {
		return nil, None, err
	}
	switch c := Detect(head); c {
	case Gzip:
		z, err := gunzip(buf)
		if err != nil {
			return nil, c, fmt.Errorf("gzip: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return z, c, nil
	case Zstd:
		z, err := zstd.NewReader(buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, c, fmt.Errorf("zstd: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return z.IOReadCloser(), c, nil
	}
	return io.NopCloser(buf), None, nil
}

// compressionOf is what a media type asks for.
func compressionOf(mediaType string) (Compression, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, dockerLayer:
		return None, nil
	case ocispec.MediaTypeImageLayerGzip, dockerLayer + ".gzip":
		return Gzip, nil
	case ocispec.MediaTypeImageLayerZstd, dockerLayer + ".zstd":
		return Zstd, nil
	}
	return None, fmt.Errorf("unsupported diff media type: %s: %w", mediaType, errdefs.ErrNotImplemented)
}

const dockerLayer = "application/vnd.docker.image.rootfs.diff.tar"

// checkLayer refuses what is no tar archive, such as an encrypted layer.
func checkLayer(mediaType string) error {
	base, suffix, _ := strings.Cut(mediaType, "+")
	if suffix != "" && suffix != "gzip" && suffix != "zstd" {
		return fmt.Errorf("layer of media type %q: %w", mediaType, errdefs.ErrNotImplemented)
	}
	if base != "" && !strings.Contains(base, ".tar") && !strings.Contains(base, ".layer.") {
		return fmt.Errorf("%q is not the media type of a layer: %w", mediaType, errdefs.ErrNotImplemented)
	}
	return nil
}

// NewCompressor packs what is written to it. Close ends the stream, not w.
func NewCompressor(w io.Writer, c Compression) (io.WriteCloser, error) {
	switch c {
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.DefaultCompression)
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	return nopWriteCloser{w}, nil
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }
