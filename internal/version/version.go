// SPDX-License-Identifier: Apache-2.0

// Package version says which containerd this build is a drop-in for. Clients
// compare these texts, so they are what upstream's build would print.
package version

// Set by the linker (Makefile).
var (
	Package  = "github.com/containerd/containerd/v2"
	Version  = "2.3.4+unknown"
	Revision = ""
)
