// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"os"
	"testing"
)

// BenchmarkPull pulls and unpacks the image that the environment names, each
// time into a new store.
func BenchmarkPull(b *testing.B) {
	ref := os.Getenv("SLIPWAY_BENCH_REF")
	if ref == "" {
		b.Skip("SLIPWAY_BENCH_REF names no image")
	}
	for b.Loop() {
		b.StopTimer()
		w := openWorld(b, b.TempDir())
		w.NoSync = os.Getenv("SLIPWAY_BENCH_NOSYNC") != ""
		b.StartTimer()
		if err := w.Pull(b.Context(), scope, ref, pullOpts("i", "overlayfs")); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(w.dir)
		b.StartTimer()
	}
}
