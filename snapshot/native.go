// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"os"

	"github.com/containerd/continuity/fs"

	"slipway/internal/mount"
)

// OpenNative keeps each snapshot as a full copy of its parent. It needs
// nothing of the file system.
func OpenNative(root string) (*Store, error) {
	s, err := openStore(root)
	if err != nil {
		return nil, err
	}
	s.driver = &native{store: s}
	return s, nil
}

type native struct{ store *Store }

func (*native) capabilities() []string { return nil }

func (d *native) written(id uint64) string { return d.store.dir(id) }

func (d *native) fill(_ context.Context, dir string, info Info, parent uint64) error {
	if info.Kind == View || parent == 0 {
		return os.Chmod(dir, 0o755)
	}
	return fs.CopyDir(dir, d.store.dir(parent))
}

func (d *native) mounts(n node) []mount.Mount {
	if n.Kind != View {
		return bindMount(d.store.dir(n.id), "rw")
	}
	if len(n.parents) == 0 {
		return bindMount(d.store.dir(n.id), "ro")
	}
	return bindMount(d.store.dir(n.parents[0]), "ro")
}
