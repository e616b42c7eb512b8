// SPDX-License-Identifier: Apache-2.0

package diff

import (
	stdgzip "compress/gzip"
	"io"
	"os"
	"testing"

	"github.com/klauspost/compress/gzip"
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
