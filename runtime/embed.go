// SPDX-License-Identifier: Apache-2.0

//go:build embedinit

package runtime

import (
	_ "embed"
	"os"
	"unsafe"

	"slipway/linux"
)

// initBinary is package runtime/init, built by `make build` before the
// programs that embed it. A string lies in memory that the file backs.
//
//go:embed init.bin
var initBinary string

func initProgram() (string, error) { return initBinary, nil }

// forgetProgram gives the memory that reading the program took back to the
// page cache, where all processes have it in common.
func forgetProgram() {
	page := uintptr(os.Getpagesize())
	from := uintptr(unsafe.Pointer(unsafe.StringData(initBinary)))
	to := from + uintptr(len(initBinary))
	linux.DontNeed((from+page-1)&^(page-1), to&^(page-1)) // at worst it stays
}
