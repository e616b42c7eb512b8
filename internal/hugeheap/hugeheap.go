// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

// Package hugeheap makes one huge page of the place where the heap of a program
// begins. It is for commands that live for milliseconds: a third of what these
// take is the first touch of one small page after the other. To import it is
// all; it does nothing before Linux 6.1.
//
// It imports nothing that is initialized late. Packages are initialized in the
// order of their paths, those that need others after these (Go specification,
// "Program initialization"): this one comes before strings, sync and syscall,
// and so before all that needs them.
package hugeheap

import "unsafe"

const (
	hugePage = 2 << 20 // bytes; on machines where it is more, the kernel refuses
	growth   = 4 << 20 // bytes by which Go maps its heap, at multiples of it

	adviseHuge     = 14 // MADV_HUGEPAGE of madvise(2)
	adviseCollapse = 25 // MADV_COLLAPSE of madvise(2), Linux 6.1
)

// madvise is madvise(2), of which no error matters here.
func madvise(addr, length, advice uintptr)

// first is among the first objects of the heap.
var first *[4096]byte

func init() {
	first = new([4096]byte)
	at := uintptr(unsafe.Pointer(first))
	start, end := at&^(hugePage-1), (at|(growth-1))+1
	madvise(start, end-start, adviseHuge)
	madvise(start, hugePage, adviseCollapse) // some of it is in use already
}
