// SPDX-License-Identifier: Apache-2.0

// Command containerd-shim-runc-v2 is the parent of a container's processes.
// The daemon runs it; see package shim.
package main

import (
	"fmt"
	"os"

	"slipway/shim"
)

func main() {
	if err := shim.Main(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "containerd-shim-runc-v2: %v\n", err)
		os.Exit(1)
	}
}
