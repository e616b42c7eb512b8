// SPDX-License-Identifier: Apache-2.0

// Package runtime runs OCI containers: it turns a bundle into processes in
// namespaces and cgroups, and keeps each container's state in a directory.
//
// A container is created when its init waits, in its namespaces and root file
// system, to be told to execute the user's process; it is running after Start
// and stopped when the init has ended. A process is the init or one that Exec
// put beside it. The caller of Create and Exec is the parent of the process
// and reaps it; every other act works from any process that can read the
// state directory, which has the form of runc's.
//
//	Create ── clone ──▶ init (package runtime/init, a sealed copy in memory)
//	   │ ◀─ packets of package protocol ─▶ │ root file system, credentials, …
//	   ▼                                   ▼ waits at exec.fifo
//	state.json                   Start ──▶ executes the user's process
//
// The package does not keep stdio, report events or reap: that is the shim's.
package runtime
