// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/mount"
)

// layerOf packs a layer with a file of size bytes.
func layerOf(t testing.TB, c Compression, size int64, fill io.Reader) []byte {
	t.Helper()
	var buf bytes.Buffer
	z, err := NewCompressor(&buf, c)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	w.WriteHeader(&tar.Header{Name: "f", Size: size, Mode: 0o600})
	if _, err := io.CopyN(w, fill, size); err != nil {
		t.Fatal(err)
	}
	w.Close()
	z.Close()
	return buf.Bytes()
}

// same is one byte for ever.
type same byte

func (s same) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	p[0] = byte(s)
	for n := 1; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
	return len(p), nil
}

func TestBombsAreRefused(t *testing.T) {
	needsRoot(t)
	const size = 12 << 20
	for claim, c := range map[string]struct {
		data []byte
		ok   bool
	}{
		"zeros in gzip":      {layerOf(t, Gzip, size, zeros{}), true},
		"zeros in zstd":      {layerOf(t, Zstd, size, zeros{}), false},
		"the same in gzip":   {layerOf(t, Gzip, size, same('A')), false},
		"the same in zstd":   {layerOf(t, Zstd, size, same('A')), false},
		"words":              {layerOf(t, Gzip, size, &words{}), true},
		"not packed":         {layerOf(t, None, size, same('A')), true},
		"a little of a bomb": {layerOf(t, Gzip, 1<<20, same('A')), true},
	} {
		t.Run(claim, func(t *testing.T) {
			b := blobs{}
			desc := b.put(c.data)
			desc.MediaType = ocispec.MediaTypeImageLayerGzip
			mounts := []mount.Mount{{Type: "bind", Source: t.TempDir(), Options: []string{"rw"}}}
			applied, err := ApplyBlob(t.Context(), b, desc, mounts, ApplyOpts{bomb: &bomb{free: 8 << 20}})
			switch {
			case c.ok && (err != nil || applied.Size < 1<<20):
				t.Errorf("%d bytes, %v", applied.Size, err)
			case !c.ok && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "limit of 8388608 bytes")):
				t.Errorf("got %v", err)
			}
		})
	}
}

// words is text that packs as text does.
type words struct{ n uint32 }

func (w *words) Read(p []byte) (int, error) {
	for i := range p {
		w.n = w.n*1664525 + 1013904223
		p[i] = "etaoin shrdlu"[(w.n>>24)%13]
	}
	return len(p), nil
}

func FuzzDecompress(f *testing.F) {
	for _, c := range []Compression{None, Gzip, Zstd} {
		f.Add(layerOf(f, c, 100, same('A')))
	}
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		z, _, err := Decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer z.Close()
		io.CopyN(io.Discard, z, 16<<20)
	})
}
