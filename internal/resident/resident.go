// SPDX-License-Identifier: Apache-2.0

// Package resident is an agreement between the daemon and its shim that saves
// the execution of a program. By the protocol of containerd, `start` runs the
// shim proper as a second process and ends. If the daemon sets Env, `start`
// may become the shim itself: it says so by its pid in the reply, closes its
// output and goes on. The daemon then does not wait for its end.
//
// Other daemons do not set Env, and other shims do not look at it.
package resident

// Env is set, to anything, by a daemon that allows it.
const Env = "SLIPWAY_RESIDENT"

// Key of the reply's metadata that holds the pid of a process that stays.
const Key = "slipway.pid"
