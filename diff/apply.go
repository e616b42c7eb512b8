// SPDX-License-Identifier: Apache-2.0

// Package diff applies layers to directories and makes layers of what changed
// between two.
//
// A layer is a tar archive of what is added or changed. A whiteout, an entry
// .wh.<name>, removes <name>; an opaque whiteout, .wh..wh..opq, removes what
// lower layers have in its directory. An implied directory is one that a
// layer puts things into without having an entry for it.
//
// Archives come from strangers. Everything happens through descriptors below
// the root: a path is resolved as if the root were /, whatever links are in
// it.
package diff

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/mount"
)

// ApplyOpts changes Apply and ApplyBlob; the zero value is the default.
type ApplyOpts struct {
	// SyncFS flushes the file system before the layer counts as applied.
	SyncFS bool
	// Tmp is where temporary mounts are made, "" for the system's directory.
	Tmp string
	// Mount performs mounts, nil for what can do with plain ones.
	Mount Mounter
	// Overlay says that the directory is the upper one of an overlay:
	// whiteouts are kept, in overlayfs's own form, instead of carried out. An
	// implied directory is ErrImplied, since what it must look like is only
	// known with the lower layers.
	Overlay bool
	// Erofs makes images of layers where a snapshot wants one, nil to unpack
	// them there.
	Erofs *ErofsOpts
	// Processors make plain layers of those of other media types; Payloads
	// are for them, by name.
	Processors []Processor
	Payloads   map[string]*anypb.Any

	bomb *bomb // of the layer being applied
}

// A Mounter performs mounts at a temporary directory in dir while fn runs.
type Mounter func(ctx context.Context, dir string, mounts []mount.Mount, fn func(root string) error) error

func (m Mounter) with(ctx context.Context, dir string, mounts []mount.Mount, fn func(root string) error) error {
	if m == nil {
		m = mount.WithTemp
	}
	return m(ctx, dir, mounts, fn)
}

// ErrImplied says that a layer cannot be applied on its own: it has an implied
// directory. Mount it on its lower layers.
var ErrImplied = errors.New("layer puts entries into a directory that it does not have")

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // of aufs, without meaning elsewhere
)

// bufferSize is how many bytes of a file are written at once, and the least
// hole that is left out.
const bufferSize = 256 << 10

// Apply unpacks the tar archive r, which is not compressed, into the directory
// root. It returns the sum of the sizes of the files in bytes. Whatever goes
// wrong, nothing outside of root is touched.
func Apply(ctx context.Context, root string, r io.Reader, opts ApplyOpts) (size int64, err error) {
	t, err := openTree(root)
	if err != nil {
		return 0, err
	}
	defer t.close()
	a, err := newApplier(t, opts)
	if err != nil {
		return 0, err
	}
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return a.size, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return a.size, describeTar(err)
		}
		if err := a.entry(h, tr); err != nil {
			return a.size, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if err := a.finishDirs(); err != nil {
		return a.size, err
	}
	if opts.SyncFS {
		return a.size, t.sync()
	}
	return a.size, nil
}

// describeTar says that the archive is at fault, unless reading it was.
func describeTar(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("malformed archive: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// applier is one Apply.
type applier struct {
	tree    *tree
	overlay bool
	made    map[string]bool // what this layer put there, for opaque whiteouts
	dirs    []dirTime
	size    int64
	buf     []byte
	bomb    *bomb // nil for an archive that was not packed

	// plain says that a new file gets the owner and mode that it is made with:
	// every directory is this layer's own, and none hands down its group or an
	// access list. Most files then need neither chown nor chmod.
	plain    bool
	uid, gid int
	umask    uint32
}

func newApplier(t *tree, opts ApplyOpts) (*applier, error) {
	a := &applier{
		tree: t, overlay: opts.Overlay, bomb: opts.bomb, buf: make([]byte, bufferSize), uid: os.Geteuid(), gid: os.Getegid(), umask: currentUmask(),
	}
	if !a.overlay {
		a.made = map[string]bool{}
	}
	names, err := t.list(t.root, 1)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(t.root.Fd()), &st); err != nil {
		return nil, sysErr("fstat", t.root.Name(), err)
	}
	a.plain = len(names) == 0 && st.Mode&unix.S_ISGID == 0
	return a, nil
}

// currentUmask reads the umask, which cannot be asked for without setting it,
// from a line of proc_pid_status(5) that Linux has since 4.7.
func currentUmask() uint32 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o777
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			if mask, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return uint32(mask)
			}
		}
	}
	return 0o777
}

type dirTime struct {
	name  string
	mtime time.Time
}

// cleanName gives the path of an entry below the root. One that leads out is
// an error even where resolving would keep it in: it is an attack.
func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("path leads out of the root: %w", errdefs.ErrInvalidArgument)
	}
	if strings.ContainsRune(clean, 0) {
		return "", fmt.Errorf("path with a zero byte: %w", errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

func (a *applier) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return a.rootEntry(h)
	}
	a.tree.trim()
	dir, base := path.Split(name)
	parent, err := a.parent(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(parent, path.Clean("/" + dir)[1:], base)
	}
	if !a.overlay {
		a.made[name] = true
	}
	return a.place(parent, name, base, h, content)
}

// rootEntry gives the root itself its looks.
func (a *applier) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return fmt.Errorf("the root must be a directory: %w", errdefs.ErrInvalidArgument)
	}
	return a.metadata(a.tree.root, ".", ".", h, false)
}

// parent opens the directory of an entry, and makes it if it is implied.
func (a *applier) parent(dir string) (*os.File, error) {
	f, err := a.tree.dir(dir)
	if !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	if a.overlay {
		return nil, ErrImplied
	}
	return a.tree.makeDirs(dir)
}

// whiteout removes what lower layers have, or notes that it is removed.
func (a *applier) whiteout(parent *os.File, dir, base string) error {
	if base == whiteoutOpaque {
		if a.overlay {
			return setOpaque(parent, ".")
		}
		return a.clearLower(parent, dir)
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q: %w", name, errdefs.ErrInvalidArgument)
	}
	if err := a.tree.remove(parent, name); err != nil {
		return err
	}
	if a.overlay {
		return sysErr("mknod", name, unix.Mknodat(int(parent.Fd()), name, unix.S_IFCHR, 0))
	}
	return nil
}

// clearLower removes from a directory what this layer did not put there.
func (a *applier) clearLower(parent *os.File, dir string) error {
	names, err := a.tree.list(parent, -1)
	if err != nil {
		return err
	}
	for _, n := range names {
		full := path.Join(dir, n)
		if a.made[full] {
			continue
		}
		if err := a.tree.remove(parent, n); err != nil {
			return err
		}
	}
	return nil
}

// finishDirs sets the times of directories, which every entry in them has
// changed, deepest last first.
func (a *applier) finishDirs() error {
	for i := len(a.dirs) - 1; i >= 0; i-- {
		d := a.dirs[i]
		a.tree.trim()
		dir, base := path.Split(d.name)
		parent, err := a.tree.dir(strings.TrimSuffix(dir, "/"))
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // removed by a later entry
		}
		if err != nil {
			return err
		}
		if err := setTime(parent, base, d.mtime); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("entry %q: %w", d.name, err)
		}
	}
	return nil
}
