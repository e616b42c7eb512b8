// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"slipway/internal/fault"
	"slipway/internal/mount"
)

// BlockfileOpts says what a snapshot starts from.
type BlockfileOpts struct {
	// Scratch is an image of an empty file system. It is copied once.
	Scratch  string
	Recreate bool     // copy Scratch again
	FSType   string   // what is in the images, "" for ext4
	Options  []string // of the mounts; images are always mounted by loop devices
}

// OpenBlockfile keeps each snapshot as an image of a file system, in the file
// snapshots/<id>. A child starts as a copy of its parent, which costs nothing
// on file systems that share extents.
func OpenBlockfile(root string, opts BlockfileOpts) (*Store, error) {
	s, err := openStore(root)
	if err != nil {
		return nil, err
	}
	d := blockfile{plain: plain{s}, scratch: filepath.Join(root, "scratch"), fsType: opts.FSType, options: slices.Clone(opts.Options)}
	if d.fsType == "" {
		d.fsType = "ext4"
	}
	if !slices.Contains(d.options, "loop") {
		d.options = append(d.options, "loop")
	}
	s.cumulative = true
	if err := d.makeScratch(opts); err != nil {
		s.Close()
		return nil, err
	}
	return s.start(d)
}

type blockfile struct {
	plain
	scratch string
	fsType  string
	options []string
}

// makeScratch copies the image that parentless snapshots start from.
func (d blockfile) makeScratch(opts BlockfileOpts) error {
	_, err := os.Stat(d.scratch)
	if err == nil && !opts.Recreate {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if opts.Scratch == "" {
		return &UnsupportedError{"no scratch file generator"}
	}
	unfinished, err := filepath.Glob(d.scratch + ".new-*")
	if err != nil {
		return err
	}
	for _, path := range unfinished { // a crash left them
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	next := d.scratch + ".new-" + rand.Text()
	if err := copyImage(context.Background(), next, opts.Scratch); err != nil {
		return fmt.Errorf("scratch file: %w", err)
	}
	fault.Point("snapshot.scratch.copied")
	return os.Rename(next, d.scratch)
}

// fill copies the parent. A view of one shows its file.
func (d blockfile) fill(ctx context.Context, path string, info Info, parent uint64) error {
	if parent == 0 {
		return copyImage(ctx, path, d.scratch)
	}
	if info.Kind == View {
		return nil
	}
	return copyImage(ctx, path, d.dir(parent))
}

func (d blockfile) mounts(n node) ([]mount.Mount, error) {
	source := d.dir(n.id)
	if n.Kind == View && len(n.parents) > 0 {
		source = d.dir(n.parents[0])
	}
	return []mount.Mount{{Type: d.fsType, Source: source, Options: append(slices.Clone(d.options), accessOf(n))}}, nil
}

// usage is the size of the image, as containerd stores it.
func (d blockfile) usage(_ context.Context, n node) (Usage, error) {
	fi, err := os.Stat(d.dir(n.id))
	if err != nil {
		return Usage{}, err
	}
	return Usage{Inodes: 1, Size: fi.Size()}, nil
}

// seal makes the image durable.
func (d blockfile) seal(ctx context.Context, n node, _ string) (string, Usage, error) {
	if err := syncFile(d.dir(n.id)); err != nil {
		return "", Usage{}, err
	}
	u, err := d.usage(ctx, n)
	return "", u, err
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// copyImage copies a file with its holes; where the file system can, both share
// their extents. The copy is durable.
func copyImage(ctx context.Context, to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(to)
		}
	}()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		if err := copyExtents(ctx, dst, src); err != nil {
			return fmt.Errorf("copy %s to %s: %w", from, to, err)
		}
	}
	return dst.Sync()
}

// copyStep is how much is copied before a cancelled request is noticed.
const copyStep = 64 << 20

// copyExtents copies what is data, see lseek(2) for SEEK_DATA.
func copyExtents(ctx context.Context, dst, src *os.File) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	for end := int64(0); ; {
		start, err := src.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			return dst.Truncate(fi.Size())
		}
		if err != nil {
			return err
		}
		if end, err = src.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := src.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(start, io.SeekStart); err != nil {
			return err
		}
		for left := end - start; left > 0; left -= copyStep {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := io.CopyN(dst, src, min(left, copyStep)); err != nil {
				return err
			}
		}
	}
}
