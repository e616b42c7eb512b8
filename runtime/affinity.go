// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/linux"
)

// setAffinity binds a process to the processors of a list such as 0-3,7.
func setAffinity(pid int, list string) error {
	var set unix.CPUSet
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err != nil || err2 != nil || first < 0 || last < first || last > len(set)*64 {
			return invalid("CPU list %q", list)
		}
		for n := first; n <= last; n++ {
			set.Set(n)
		}
	}
	if err := linux.SetAffinity(pid, &set); err != nil {
		return fmt.Errorf("CPU affinity %s: %w", list, err)
	}
	return nil
}
