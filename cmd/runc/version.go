// SPDX-License-Identifier: Apache-2.0

package main

import "runtime"

// releaseVersion is that of the runc whose behaviour this one has: callers
// decide by it what they may ask for.
const releaseVersion = "1.5.1"

func goVersion() string { return runtime.Version() }
