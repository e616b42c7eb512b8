// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package hugeheap

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugeAt is how much of the mapping that holds an address is huge pages, in KiB.
func hugeAt(t *testing.T, addr uintptr) (size int) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= addr && addr < to
		}
		if inside && strings.HasPrefix(lines.Text(), "AnonHugePages:") {
			fmt.Sscanf(lines.Text(), "AnonHugePages: %d", &size)
		}
	}
	return size
}

func TestTheHeapBeginsWithAHugePage(t *testing.T) {
	probe, err := unix.Mmap(-1, 0, 2*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(probe)
	rest := -uintptr(unsafe.Pointer(&probe[0])) & (hugePage - 1)
	probe[rest] = 1 // of nothing no huge page is made
	if err := unix.Madvise(probe[rest:rest+hugePage], adviseCollapse); err != nil {
		t.Skipf("needs a kernel that makes huge pages (Linux 6.1), and memory for one: %v", err)
	}
	if size := hugeAt(t, uintptr(unsafe.Pointer(first))); size < hugePage>>10 {
		t.Errorf("the mapping of the heap has %d KiB of huge pages", size)
	}
}
