// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"os"
	"testing"
)

// BenchmarkApply unpacks the archive that the environment names.
func BenchmarkApply(b *testing.B) {
	name := os.Getenv("SLIPWAY_BENCH_TAR")
	if name == "" {
		b.Skip("SLIPWAY_BENCH_TAR names no archive")
	}
	for b.Loop() {
		b.StopTimer()
		root := b.TempDir()
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := Apply(b.Context(), root, f, ApplyOpts{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		f.Close()
		os.RemoveAll(root)
		b.StartTimer()
	}
}
