// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"slipway/internal/erofs"
	"slipway/internal/mount"
)

// ErofsOpts changes an EROFS store; the zero value is the default.
type ErofsOpts struct {
	OverlayOptions []string // added to every overlay mount
	Verity         bool     // images are checked by fs-verity
	Immutable      bool     // images cannot be changed or removed by others
	NoTrees        bool     // dm-verity trees beside images are not used
	// Size is that of the ext4 image of what is written, in bytes; 0 is for a
	// directory.
	Size int64
}

// OpenErofs keeps committed snapshots as images of EROFS, of which overlayfs
// stacks the mounts:
//
//	snapshots/<id>/layer.erofs   the image, once committed
//	snapshots/<id>/.erofslayer   says that the directory is to become an image
//	snapshots/<id>/fs, work      upper directory, while active
//	snapshots/<id>/rwlayer.img   the same as an ext4 image
//
// The mounts need the mount manager.
func OpenErofs(root string, opts ErofsOpts) (*Store, error) {
	if !erofs.Supported() {
		return nil, &UnsupportedError{"EROFS unsupported, please `modprobe erofs`"}
	}
	s, err := openStore(root)
	if err != nil {
		return nil, err
	}
	if opts.Verity {
		if err := tryVerity(root); err != nil {
			s.Close()
			return nil, err
		}
	}
	opts.OverlayOptions = slices.Clone(opts.OverlayOptions)
	return s.start(erofsDriver{plain{s}, opts, mount.IDMapsOverlay()})
}

// tryVerity checks a file of the file system that the images will be on.
func tryVerity(root string) error {
	probe, err := os.CreateTemp(root, "verity-")
	if err != nil {
		return err
	}
	probe.Close()
	defer os.Remove(probe.Name())
	if err := erofs.EnableVerity(probe.Name()); err != nil {
		return fmt.Errorf("fsverity is not supported on the filesystem of %q: %w", root, err)
	}
	return nil
}

type erofsDriver struct {
	plain
	opts   ErofsOpts
	idmaps bool
}

func (d erofsDriver) capabilities() []string {
	if d.idmaps && d.opts.Size == 0 {
		return []string{"only-remap-ids", "remap-ids", "rebase"}
	}
	return []string{"rebase"}
}

func (d erofsDriver) upper(id uint64) string    { return filepath.Join(d.dir(id), "fs") }
func (d erofsDriver) image(id uint64) string    { return filepath.Join(d.dir(id), erofs.Image) }
func (d erofsDriver) writable(id uint64) string { return filepath.Join(d.dir(id), "rwlayer.img") }

func (d erofsDriver) fill(_ context.Context, dir string, info Info, parent uint64) error {
	lower := ""
	if parent != 0 {
		lower = d.upper(parent)
	}
	if err := fillUpper(dir, info, lower); err != nil || info.Kind != Active {
		return err
	}
	return os.WriteFile(filepath.Join(dir, erofs.Marker), nil, 0o644)
}

// mounts gives those of the images, and one that puts them together.
func (d erofsDriver) mounts(n node) ([]mount.Mount, error) {
	if len(n.parents) == 0 {
		return d.alone(n), nil
	}
	var (
		all  []mount.Mount
		opts []string
	)
	if n.Kind == Active {
		all, opts = d.top(n)
	}
	first := len(all)
	for _, id := range n.parents {
		m, err := d.lower(id)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	if n.Kind == View && len(all) == 1 {
		return all, nil
	}
	if n.Kind == Active && d.idmaps && d.opts.Size == 0 {
		opts = append(opts, idmapOptions(n.Info)...)
	}
	lower := fmt.Sprintf("lowerdir={{ overlay %d %d }}", first, len(all)-1)
	if len(n.parents) == 1 {
		lower = fmt.Sprintf("lowerdir={{ mount %d }}", first)
	}
	opts = append(append(opts, lower), d.opts.OverlayOptions...)
	return append(all, mount.Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: opts}), nil
}

// alone shows a snapshot without parents.
func (d erofsDriver) alone(n node) []mount.Mount {
	if d.opts.Size == 0 || n.Kind == View {
		return bindMount(d.upper(n.id), accessOf(n))
	}
	return []mount.Mount{d.block(n.id), {Type: "format/mkdir/bind", Source: "{{ mount 0 }}/upper", Options: []string{
		"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "rw", "rbind",
	}}}
}

// top gives the mounts and the options of the upper directory.
func (d erofsDriver) top(n node) ([]mount.Mount, []string) {
	if d.opts.Size == 0 {
		return nil, []string{"workdir=" + filepath.Join(d.dir(n.id), "work"), "upperdir=" + d.upper(n.id)}
	}
	return []mount.Mount{d.block(n.id)}, []string{
		"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
		"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper",
	}
}

func (d erofsDriver) block(id uint64) mount.Mount {
	return mount.Mount{Type: "mkfs/ext4", Source: d.writable(id), Options: []string{
		"X-containerd.mkfs.fs=ext4", fmt.Sprintf("X-containerd.mkfs.size=%d", d.opts.Size), "rw", "loop",
	}}
}

// lower is the mount of a committed snapshot.
func (d erofsDriver) lower(id uint64) (mount.Mount, error) {
	image := d.image(id)
	if _, err := os.Stat(image); err != nil {
		return mount.Mount{}, fmt.Errorf("image of a layer: %w", err)
	}
	if d.opts.Verity {
		on, err := erofs.HasVerity(image)
		if err != nil {
			return mount.Mount{}, err
		}
		if !on {
			return mount.Mount{}, fmt.Errorf("image %s has no fs-verity: %w", image, errdefs.ErrFailedPrecondition)
		}
	}
	m := mount.Mount{Type: "erofs", Source: image, Options: []string{"ro", "loop"}}
	if _, err := os.Stat(image + ".dmverity"); err == nil && !d.opts.NoTrees {
		m.Options = append(m.Options, "X-containerd.dmverity="+image+".dmverity")
	}
	return m, nil
}

// usage is of the upper directory, or of the image that a differ made.
func (d erofsDriver) usage(ctx context.Context, n node) (Usage, error) {
	for _, image := range []string{d.writable(n.id), d.image(n.id)} {
		if _, err := os.Stat(image); err == nil {
			return diskUsage(ctx, image)
		}
	}
	return diskUsage(ctx, d.upper(n.id))
}

// seal makes the image, unless a differ did: then nothing was written
// elsewhere. One that an interrupted commit left is made again.
func (d erofsDriver) seal(ctx context.Context, n node, stage string) (string, Usage, error) {
	image := d.image(n.id)
	made, err := d.madeByDiffer(n.id)
	if err != nil {
		return "", Usage{}, err
	}
	to := ""
	if !made {
		if err := d.convert(ctx, n.id, stage); err != nil {
			return "", Usage{}, err
		}
		image, to = stage, d.image(n.id)
	}
	if d.opts.Verity {
		if err := erofs.EnableVerity(image); err != nil {
			return "", Usage{}, err
		}
	}
	u, err := diskUsage(ctx, image)
	return to, u, err
}

func (d erofsDriver) madeByDiffer(id uint64) (bool, error) {
	if _, err := os.Stat(d.image(id)); err != nil {
		return false, ignoreAbsent(err)
	}
	if _, err := os.Stat(d.writable(id)); err == nil {
		return false, nil
	}
	written, err := os.ReadDir(d.upper(id))
	return len(written) == 0, err
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// convert makes an image of what was written.
func (d erofsDriver) convert(ctx context.Context, id uint64, image string) error {
	if _, err := os.Stat(d.writable(id)); err != nil {
		if err := ignoreAbsent(err); err != nil {
			return err
		}
		return erofs.FromDir(ctx, image, d.upper(id))
	}
	ext4 := []mount.Mount{{Type: "ext4", Source: d.writable(id), Options: []string{"ro", "loop", "noload"}}}
	return mount.WithTemp(ctx, d.store.root, ext4, func(root string) error {
		dir := filepath.Join(root, "upper")
		if _, err := os.Stat(dir); err != nil {
			if err := ignoreAbsent(err); err != nil {
				return err
			}
			dir = d.upper(id) // nothing was written
		}
		return erofs.FromDir(ctx, image, dir)
	})
}

// settle empties the upper directory, whose owner children look at.
func (d erofsDriver) settle(n node) {
	if d.opts.Immutable {
		erofs.SetImmutable(d.image(n.id), true) // a guard against accidents, as far as the file system has it
	}
	os.Remove(d.writable(n.id))
	entries, _ := os.ReadDir(d.upper(n.id))
	for _, e := range entries {
		os.RemoveAll(filepath.Join(d.upper(n.id), e.Name()))
	}
}

func (d erofsDriver) discard(path string) error {
	image := filepath.Join(path, erofs.Image)
	if _, err := os.Stat(image); err == nil {
		if err := erofs.SetImmutable(image, false); err != nil && d.opts.Immutable {
			return err
		}
	}
	return os.RemoveAll(path)
}
