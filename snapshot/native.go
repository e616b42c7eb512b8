// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	iofs "io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	"slipway/internal/mount"
)

// OpenNative keeps each snapshot as a full copy of its parent. It needs
// nothing of the file system.
func OpenNative(root string) (*Store, error) {
	s, err := openStore(root)
	if err != nil {
		return nil, err
	}
	return s.start(native{plain{s}})
}

type native struct{ plain }

func (d native) fill(_ context.Context, dir string, info Info, parent uint64) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if info.Kind == View || parent == 0 {
		return os.Chmod(dir, 0o755)
	}
	if err := fs.CopyDir(dir, d.dir(parent)); err != nil {
		return err
	}
	return copyTimes(dir, d.dir(parent))
}

func (d native) usage(ctx context.Context, n node) (Usage, error) { return diskUsage(ctx, d.dir(n.id)) }

func (d native) seal(ctx context.Context, n node, _ string) (string, Usage, error) {
	u, err := d.usage(ctx, n)
	return "", u, err
}

// copyTimes gives the directories of a copy the times of the original, which
// CopyDir sets before it puts the files into them.
func copyTimes(to, from string) error {
	return filepath.WalkDir(from, func(path string, e iofs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		name := filepath.Join(to, rel)
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "utimensat", Path: name, Err: err}
		}
		return nil
	})
}

func (d native) mounts(n node) ([]mount.Mount, error) {
	if n.Kind != View {
		return bindMount(d.dir(n.id), "rw"), nil
	}
	if len(n.parents) == 0 {
		return bindMount(d.dir(n.id), "ro"), nil
	}
	return bindMount(d.dir(n.parents[0]), "ro"), nil
}
