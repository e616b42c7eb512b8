// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"slipway/internal/mount"
)

// Labels that clients put on snapshots for the driver.
const (
	labelUIDMapping = "containerd.io/snapshot/uidmapping"
	labelGIDMapping = "containerd.io/snapshot/gidmapping"
)

// OverlayOpts changes an overlay store; the zero value is the default.
type OverlayOpts struct {
	SyncRemove   bool     // Remove waits for the files to be gone
	MountOptions []string // added to every overlay mount
}

// OpenOverlay keeps each snapshot in one directory, snapshots/<id>/fs, which
// overlayfs stacks.
func OpenOverlay(root string, opts OverlayOpts) (*Store, error) {
	s, err := openStore(root)
	if err != nil {
		return nil, err
	}
	o := &overlay{store: s, options: opts.MountOptions}
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil && !hasOption(opts.MountOptions, "index=") {
		// An index would bind an upper directory to the lower ones that it
		// was first mounted with, and a rebase changes those.
		o.options = append(slices.Clone(o.options), "index=off")
	}
	s.driver, s.sync = o, opts.SyncRemove
	return s, nil
}

func hasOption(list []string, prefix string) bool {
	return slices.ContainsFunc(list, func(o string) bool { return strings.HasPrefix(o, prefix) })
}

type overlay struct {
	store   *Store
	options []string
}

func (o *overlay) capabilities() []string { return []string{"rebase"} }

func (o *overlay) written(id uint64) string { return filepath.Join(o.store.dir(id), "fs") }

func (o *overlay) fill(_ context.Context, dir string, info Info, parent uint64) error {
	fs := filepath.Join(dir, "fs")
	if err := os.Mkdir(fs, 0o755); err != nil {
		return err
	}
	if info.Kind == Active {
		if err := os.Mkdir(filepath.Join(dir, "work"), 0o711); err != nil {
			return err
		}
	}
	uid, gid, err := o.owner(info, parent)
	if err != nil || uid < 0 {
		return err
	}
	return os.Lchown(fs, uid, gid)
}

// owner is that of the top directory: as mapped, or as the parent's; negative
// if it is to stay as made.
func (o *overlay) owner(info Info, parent uint64) (uid, gid int, err error) {
	if u, g := info.Labels[labelUIDMapping], info.Labels[labelGIDMapping]; u != "" && g != "" {
		if uid, err = mappedRoot(u); err != nil {
			return 0, 0, err
		}
		gid, err = mappedRoot(g)
		return uid, gid, err
	}
	if parent == 0 {
		return -1, -1, nil
	}
	fi, err := os.Lstat(o.written(parent))
	if err != nil {
		return 0, 0, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid), nil
}

// mappedRoot is the host's id of root in a mapping container:host:length.
func mappedRoot(mapping string) (int, error) {
	for _, m := range strings.Split(mapping, ",") {
		f := strings.Split(m, ":")
		if len(f) != 3 {
			return 0, fmt.Errorf("id mapping %q is not container:host:length: %w", mapping, errdefs.ErrInvalidArgument)
		}
		host, err := strconv.Atoi(f[1])
		if err != nil {
			return 0, fmt.Errorf("id mapping %q: %w: %w", mapping, err, errdefs.ErrInvalidArgument)
		}
		if f[0] == "0" {
			return host, nil
		}
	}
	return 0, fmt.Errorf("id mapping %q does not map root: %w", mapping, errdefs.ErrInvalidArgument)
}

// mounts gives a bind mount where one directory shows everything, and an
// overlay elsewhere. Clients know the order of the options.
func (o *overlay) mounts(n node) []mount.Mount {
	if len(n.parents) == 0 {
		access := "rw"
		if n.Kind == View {
			access = "ro"
		}
		return bindMount(o.written(n.id), access)
	}
	if n.Kind == View && len(n.parents) == 1 {
		return bindMount(o.written(n.parents[0]), "ro")
	}
	var opts []string
	if n.Kind == Active {
		if u, g := n.Labels[labelUIDMapping], n.Labels[labelGIDMapping]; u != "" && g != "" {
			opts = append(opts, "uidmap="+u, "gidmap="+g)
		}
		opts = append(opts, "workdir="+filepath.Join(o.store.dir(n.id), "work"), "upperdir="+o.written(n.id))
	}
	lower := make([]string, len(n.parents))
	for i, id := range n.parents {
		lower[i] = o.written(id)
	}
	opts = append(opts, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(opts, o.options...)}}
}

func bindMount(source, access string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{access, "rbind"}}}
}
