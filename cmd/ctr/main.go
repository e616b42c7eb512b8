// SPDX-License-Identifier: Apache-2.0

// Command ctr is the command line of the daemon, for people.
package main

import (
	"os"

	"slipway/ctr"
	_ "slipway/internal/hugeheap"
)

func main() { os.Exit(ctr.Main()) }
