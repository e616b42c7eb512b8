// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
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

// hasAffinity says whether p is to be bound to processors.
func hasAffinity(p *specs.Process) bool {
	a := p.ExecCPUAffinity
	return a != nil && (a.Initial != "" || a.Final != "")
}

// affinityMask has a bit for each of the first processors that pid may run on.
func affinityMask(pid int) uint64 {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(pid, &set); err != nil {
		return 0 // it is for the log only
	}
	return uint64(set[0])
}
