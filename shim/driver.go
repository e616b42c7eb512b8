// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"os"
	"path/filepath"

	"slipway/internal/mount"
)

// A Driver runs one container. It calls an OCI runtime, or is one.
//
// The processes that it starts end up as children of the shim, be it because
// they are forked here or because their parent ended and the shim is a
// subreaper. The caller reaps them; a driver that forks does not wait. The
// caller closes its copies of the files of Stdio when a method returns.
//
// It is larger than interfaces should be: every method is one of the OCI
// runtime's operations, and both implementations have all of them.
type Driver interface {
	// Create makes the container with its init waiting for Start. The mounts
	// are its root file system, if it is not there already. On failure nothing
	// is mounted.
	Create(context.Context, []mount.Mount, Stdio) (Started, error)
	// Restore makes and starts the container from a checkpoint.
	Restore(ctx context.Context, image string, rootfs []mount.Mount, io Stdio) (Started, error)
	Start(context.Context) error
	// Exec starts one more process, described by the JSON of an OCI process.
	Exec(ctx context.Context, id string, process []byte, io Stdio) (Started, error)
	// Kill signals the init, or every process of the container. It returns
	// errdefs.ErrNotFound if there is nothing to signal.
	Kill(ctx context.Context, signal uint32, all bool) error
	// Delete removes a container whose init ended, and what is mounted at its
	// root file system's place on the host; force kills it first. A
	// container that does not exist is no error if force is set.
	Delete(ctx context.Context, force bool) error
	Pause(context.Context) error
	Resume(context.Context) error
	// Update applies the JSON of OCI LinuxResources.
	Update(ctx context.Context, resources []byte) error
	Pids(context.Context) ([]int, error)
	Checkpoint(context.Context, Checkpoint) error
}

// defaultRoot holds the state of the containers of every namespace, where
// upstream's shim keeps it too, so that either can take over.
const defaultRoot = "/run/containerd/runc"

// stateRoot is the directory of the states of a namespace.
func stateRoot(ns string, o Options) string {
	if o.Root == "" {
		return filepath.Join(defaultRoot, ns)
	}
	return filepath.Join(o.Root, ns)
}

// newDriver is the driver that the options choose: an external runtime if
// they name one.
func newDriver(ns, id, bundle string, o Options, r *reaper) Driver {
	if o.BinaryName != "" {
		return newRunc(ns, id, bundle, o, r)
	}
	return newBuiltin(ns, id, bundle, o, r)
}

// Stdio is what a process gets as its descriptors 0 to 2; nil is /dev/null. A
// process with a Terminal gets a new pseudo terminal instead, of which the
// driver returns the master.
type Stdio struct {
	In, Out, Err *os.File
	Terminal     bool
}

// Started is a process that a driver started. The caller closes Console.
type Started struct {
	Pid     int
	Console *os.File // nil without a terminal
}

// A Checkpoint says where and how to save a container, as options of CRIU.
type Checkpoint struct {
	Image, Work         string // directories; Work may be empty
	LeaveRunning        bool
	OpenTCP             bool
	ExternalUnixSockets bool
	Terminal            bool
	FileLocks           bool
	EmptyNamespaces     []string
	CgroupsMode         string
}
