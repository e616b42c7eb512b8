// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// BenchmarkGunzip compares the implementations on the file that the
// environment names.
func BenchmarkGunzip(b *testing.B) {
	name := os.Getenv("SLIPWAY_BENCH_GZIP")
	if name == "" {
		b.Skip("SLIPWAY_BENCH_GZIP names no file")
	}
	for impl, open := range map[string]func(io.Reader) (io.ReadCloser, error){
		"std":       func(r io.Reader) (io.ReadCloser, error) { return stdgzip.NewReader(r) },
		"klauspost": func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) },
	} {
		b.Run(impl, func(b *testing.B) {
			for b.Loop() {
				f, err := os.Open(name)
				if err != nil {
					b.Fatal(err)
				}
				z, err := open(f)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, z, make([]byte, 256<<10))
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
				f.Close()
			}
		})
	}
}

// TestSeekableLayersAreReadAsWhatTheyAre: eStargz is gzip of many members, and
// zstd:chunked is zstd of many frames, with tables of contents that only their
// own readers look at.
func TestSeekableLayersAreReadAsWhatTheyAre(t *testing.T) {
	parts := [][]byte{[]byte("first entry "), []byte("second entry "), []byte("third")}
	for name, blob := range map[string][]byte{"eStargz": stargz(t, parts), "zstd:chunked": chunked(t, parts)} {
		plain, _, err := Decompress(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(plain)
		plain.Close()
		if err != nil || !bytes.Equal(got, bytes.Join(parts, nil)) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// stargz packs each part by itself; the footer, an empty member, says in its
// header where the table of contents is.
func stargz(t *testing.T, parts [][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	for i := range append(parts, nil) {
		z := gzip.NewWriter(&buf)
		if i < len(parts) {
			z.Write(parts[i])
		} else {
			z.Extra = []byte("SG\x16\x0000000000000000aaSTARGZ")
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// chunked packs each part by itself; skippable frames hold the rest.
func chunked(t *testing.T, parts [][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	for _, p := range parts {
		z, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		z.Write(p)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, extra := range []string{"table of contents", "footer"} {
		buf.Write(append([]byte{0x50, 0x2a, 0x4d, 0x18}, binary.LittleEndian.AppendUint32(nil, uint32(len(extra)))...))
		buf.WriteString(extra)
	}
	return buf.Bytes()
}
