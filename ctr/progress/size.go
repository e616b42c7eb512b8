// SPDX-License-Identifier: Apache-2.0

package progress

import "fmt"

// Bytes prints a number of bytes in powers of 1024: 3.4 MiB.
func Bytes(n int64) string {
	f := float64(n)
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for f >= 1024 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %s", f, units[0])
}
