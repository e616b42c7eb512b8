// SPDX-License-Identifier: Apache-2.0

package task

import (
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/mount"
)

// Stdio names where the streams of a process go: FIFO paths or URIs. An empty
// one is not connected.
type Stdio struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// CreateOpts describes a task to create of a container that exists.
type CreateOpts struct {
	Rootfs      []mount.Mount
	Stdio       Stdio
	RuntimePath string     // absolute path of the shim, overrides the runtime's name
	Options     *anypb.Any // runtime options, nil for those of the container
	// Checkpoint is a directory with a CRIU image to restore from, or empty.
	Checkpoint string
	// Endpoint is the task service of a sandbox to run in; without an address
	// it is that of the container's sandbox, if it has one.
	Endpoint Endpoint
}

// Status is the state of a process as the wire numbers it
// (containerd.v1.types.Status).
type Status int32

const (
	Unknown Status = iota
	Created
	Running
	Stopped
	Paused
	Pausing
)

// State describes one process of a task.
type State struct {
	ID         string // container or exec id
	Pid        uint32
	Status     Status
	Stdio      Stdio
	ExitStatus uint32
	ExitedAt   time.Time
}

// Exit is how a process ended.
type Exit struct {
	Pid    uint32
	Status uint32
	At     time.Time
}

// Process is one process in a container. Info is nil or
// containerd.runc.v1.ProcessDetails.
type Process struct {
	Pid  uint32
	Info *anypb.Any
}
