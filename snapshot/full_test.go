// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"slipway/test/smalldisk"
)

// TestAFullDiskIsFreed removes so many snapshots that the directory would need
// another block for the names that they are moved to.
func TestAFullDiskIsFreed(t *testing.T) {
	const count = 400
	for _, fsType := range []string{"tmpfs", "ext4"} {
		t.Run(fsType, func(t *testing.T) {
			dir := smalldisk.New(t, fsType, 16<<20)
			s, err := OpenNative(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for i := range count {
				if _, err := s.Prepare(t.Context(), fmt.Sprint(i), "", nil); err != nil {
					t.Fatal(err)
				}
			}
			smalldisk.Fill(t, dir)
			for i := range count {
				if err := s.Remove(t.Context(), fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "snapshots")); err != nil || len(left) != 0 {
				t.Errorf("%d left, %v", len(left), err)
			}
		})
	}
}
