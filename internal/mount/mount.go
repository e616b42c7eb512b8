// SPDX-License-Identifier: Apache-2.0

// Package mount performs the mounts that snapshotters return.
package mount

// A Mount is one mount(2) call, in the form that fstab(5) and the wire use.
type Mount struct {
	Type    string   // file system type; "bind" for a bind mount
	Source  string   // device, directory or name
	Target  string   // path below the mount point, usually empty
	Options []string // fstab options; unknown ones are data of the file system
}
