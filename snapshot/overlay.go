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

// Labels that clients put on snapshots for the driver, and one that it adds.
const (
	labelUIDMapping = "containerd.io/snapshot/uidmapping"
	labelGIDMapping = "containerd.io/snapshot/gidmapping"
	labelUpper      = "containerd.io/snapshot/overlay.upperdir"
)

// OverlayOpts changes an overlay store; the zero value is the default.
type OverlayOpts struct {
	SyncRemove   bool     // Remove waits for the files to be gone
	MountOptions []string // added to every overlay mount
	UpperLabel   bool     // snapshots tell their upper directory in a label
	// SlowChown tells clients that they may change the owners of all files of a
	// snapshot where ids cannot be mapped.
	SlowChown bool
}

// OpenOverlay keeps each snapshot in one directory, snapshots/<id>/fs, which
// overlayfs stacks.
func OpenOverlay(root string, opts OverlayOpts) (*Store, error) {
	s, err := openStore(root)
	if err != nil {
		return nil, err
	}
	o := &overlay{plain: plain{s}, options: slices.Clone(opts.MountOptions), able: overlayCapabilities(opts.SlowChown)}
	if !slices.Contains(o.options, "userxattr") && needsUserXattr(root) {
		o.options = append(o.options, "userxattr")
	}
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil && !hasOption(o.options, "index=") {
		// An index would bind an upper directory to the lower ones that it
		// was first mounted with, and a rebase changes those.
		o.options = append(o.options, "index=off")
	}
	s.sync = opts.SyncRemove
	if opts.UpperLabel {
		s.decorate = func(i *Info, id uint64) {
			if i.Labels == nil {
				i.Labels = make(map[string]string)
			}
			i.Labels[labelUpper] = o.written(id)
		}
	}
	return s.start(o)
}

// overlayCapabilities are those of this host.
func overlayCapabilities(slowChown bool) (able []string) {
	if mount.IDMapsOverlay() {
		able = append(able, "remap-ids")
		if !slowChown {
			able = append(able, "only-remap-ids")
		}
	}
	if !inUserNamespace() {
		able = append(able, "rebase")
	}
	return able
}

// inUserNamespace says whether the ids of this process are not the host's.
func inUserNamespace() bool {
	m, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295"
}

// needsUserXattr says whether overlayfs keeps its notes in user.* attributes:
// trusted.* is closed to user namespaces. Linux can do so from 5.11 on.
func needsUserXattr(root string) bool {
	if !inUserNamespace() {
		return false
	}
	dir, err := os.MkdirTemp(root, "userxattr-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	for _, sub := range []string{"lower1", "lower2", "at"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return false
		}
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + dir + "/lower2:" + dir + "/lower1", "userxattr",
	}}
	at := filepath.Join(dir, "at")
	if err := mount.All([]mount.Mount{m}, at); err != nil {
		return false
	}
	return mount.Unmount(at) == nil
}

func hasOption(list []string, prefix string) bool {
	return slices.ContainsFunc(list, func(o string) bool { return strings.HasPrefix(o, prefix) })
}

type overlay struct {
	plain
	options []string
	able    []string
}

func (o *overlay) capabilities() []string { return o.able }

// written is the directory of what the snapshot itself holds.
func (o *overlay) written(id uint64) string { return filepath.Join(o.dir(id), "fs") }

func (o *overlay) usage(ctx context.Context, n node) (Usage, error) {
	return diskUsage(ctx, o.written(n.id))
}

func (o *overlay) seal(ctx context.Context, n node, _ string) (string, Usage, error) {
	u, err := o.usage(ctx, n)
	return "", u, err
}

func (o *overlay) fill(_ context.Context, dir string, info Info, parent uint64) error {
	lower := ""
	if parent != 0 {
		lower = o.written(parent)
	}
	return fillUpper(dir, info, lower)
}

// fillUpper makes the directories of an overlay of which dir/fs is the upper
// one. It is owned as the labels map root, or like the directory below.
func fillUpper(dir string, info Info, lower string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	fs := filepath.Join(dir, "fs")
	if err := os.Mkdir(fs, 0o755); err != nil {
		return err
	}
	if info.Kind == Active {
		if err := os.Mkdir(filepath.Join(dir, "work"), 0o711); err != nil {
			return err
		}
	}
	uid, gid, err := ownerOf(info, lower)
	if err != nil || uid < 0 {
		return err
	}
	return os.Lchown(fs, uid, gid)
}

// ownerOf is the owner of the top directory: as mapped, or as that below;
// negative if it is to stay as made.
func ownerOf(info Info, lower string) (uid, gid int, err error) {
	if u, g := info.Labels[labelUIDMapping], info.Labels[labelGIDMapping]; u != "" && g != "" {
		if uid, err = mappedRoot(u); err != nil {
			return 0, 0, err
		}
		gid, err = mappedRoot(g)
		return uid, gid, err
	}
	if lower == "" {
		return -1, -1, nil
	}
	fi, err := os.Lstat(lower)
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
func (o *overlay) mounts(n node) ([]mount.Mount, error) {
	if len(n.parents) == 0 {
		return bindMount(o.written(n.id), accessOf(n)), nil
	}
	if n.Kind == View && len(n.parents) == 1 {
		return bindMount(o.written(n.parents[0]), "ro"), nil
	}
	var opts []string
	if n.Kind == Active {
		if slices.Contains(o.able, "remap-ids") {
			opts = idmapOptions(n.Info)
		}
		opts = append(opts, "workdir="+filepath.Join(o.dir(n.id), "work"), "upperdir="+o.written(n.id))
	}
	lower := make([]string, len(n.parents))
	for i, id := range n.parents {
		lower[i] = o.written(id)
	}
	opts = append(opts, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(opts, o.options...)}}, nil
}

// idmapOptions have the lower layers shown with the owners that the labels ask
// for.
func idmapOptions(i Info) []string {
	u, g := i.Labels[labelUIDMapping], i.Labels[labelGIDMapping]
	if u == "" || g == "" {
		return nil
	}
	return []string{"uidmap=" + u, "gidmap=" + g}
}

func accessOf(n node) string {
	if n.Kind == View {
		return "ro"
	}
	return "rw"
}

func bindMount(source, access string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{access, "rbind"}}}
}
