// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"slipway/linux"
	"slipway/runtime"
)

// trimMemory gives back what an idle shim can do without.
func trimMemory() {
	runtime.Release()
	debug.FreeOSMemory()
	for _, r := range programRanges() {
		linux.DontNeed(r[0], r[1]) // at worst they stay
	}
}

// programRanges are the parts of the address space that the program's file
// backs and that nothing has changed: they come back from the page cache, which
// all shims share, when they are used again.
var programRanges = sync.OnceValue(func() [][2]uintptr {
	maps, err := os.ReadFile("/proc/self/maps")
	exe, eerr := os.Readlink("/proc/self/exe")
	if err != nil || eerr != nil || !fixedAddress() {
		return nil
	}
	return unchangedRanges(string(maps), exe)
})

// fixedAddress says whether the program is one that needs no relocation, which
// would be a change that must not be lost.
func fixedAddress() bool {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer f.Close()
	const typeOffset, typeExec = 16, 2 // elf(5): e_type, ET_EXEC
	var head [typeOffset + 2]byte
	_, err = f.ReadAt(head[:], 0)
	return err == nil && bytes.HasPrefix(head[:], []byte("\x7fELF")) && binary.NativeEndian.Uint16(head[typeOffset:]) == typeExec
}

// unchangedRanges finds in proc_pid_maps(5) what is mapped of exe and cannot
// be written to.
func unchangedRanges(maps, exe string) (ranges [][2]uintptr) {
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != exe || strings.Contains(fields[1], "w") {
			continue
		}
		var r [2]uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &r[0], &r[1]); err == nil {
			ranges = append(ranges, r)
		}
	}
	return ranges
}
