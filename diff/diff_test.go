// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"slipway/content"
	"slipway/internal/mount"
)

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make devices and change owners")
	}
}

// archive writes entries; a regular file's content is in its Linkname.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		body := ""
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			body, h.Linkname, h.Size = h.Linkname, "", int64(len(h.Linkname))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, body string) tar.Header { return tar.Header{Name: name, Linkname: body} }
func dir(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}
func symlink(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}
func hardlink(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
}

func apply(t testing.TB, root string, data []byte, opts ApplyOpts) error {
	t.Helper()
	_, err := Apply(t.Context(), root, bytes.NewReader(data), opts)
	return err
}

// listing shows a tree as "path type content" lines.
func listing(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d %d links", rel, fi.Mode(), st.Uid, st.Gid, map[bool]uint64{false: uint64(st.Nlink)}[d.IsDir()])
		switch {
		case d.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(p)
			b.WriteString(" -> " + to)
		case d.Type().IsRegular():
			data, _ := os.ReadFile(p)
			fmt.Fprintf(&b, " %q", data)
		case d.Type()&fs.ModeDevice != 0:
			fmt.Fprintf(&b, " dev %d", st.Rdev)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestApplyMetadata(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	mtime := time.Unix(1600000000, 0)
	data := archive(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 1, Gid: 2, ModTime: mtime},
		tar.Header{Name: "d/suid", Linkname: "x", Mode: 0o4755, Uid: 5, Gid: 6, ModTime: mtime,
			PAXRecords: map[string]string{paxXattr + "user.a": "b", paxXattr + "trusted.overlay.opaque": "y"}},
		tar.Header{Name: "d/" + strings.Repeat("long", 100)[:250], Linkname: "y"},
		hardlink("h", "d/suid"), symlink("s", "/etc/passwd"),
		tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
	)
	if err := apply(t, root, data, ApplyOpts{SyncFS: true}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "d/suid"), &st); err != nil || st.Mode&0o7777 != 0o4755 || st.Uid != 5 || st.Gid != 6 || st.Nlink != 2 || st.Mtim.Sec != mtime.Unix() {
		t.Errorf("d/suid: %+v, %v", st, err)
	}
	if err := unix.Stat(filepath.Join(root, "d"), &st); err != nil || st.Mtim.Sec != mtime.Unix() || st.Mode&0o7777 != 0o1777 {
		t.Errorf("d: %+v, %v", st, err)
	}
	if err := unix.Stat(filepath.Join(root, "null"), &st); err != nil || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("null: %+v, %v", st, err)
	}
	if err := unix.Stat(root, &st); err != nil || st.Uid != 3 || st.Mode&0o777 != 0o750 {
		t.Errorf("root: %+v, %v", st, err)
	}
	buf := make([]byte, 10)
	if _, err := unix.Lgetxattr(filepath.Join(root, "d/suid"), "trusted.overlay.opaque", buf); !errors.Is(err, unix.ENODATA) {
		t.Errorf("an archive can set overlayfs's attributes: %v", err)
	}
}

func TestWhiteouts(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	lower := archive(t, dir("a/"), file("a/one", "1"), file("a/two", "2"), dir("b/"), dir("b/c/"), file("b/c/x", "x"), file("f", "f"))
	upper := archive(t, file("a/.wh.one", ""), dir("b/"), file("b/new", "n"), file("b/.wh..wh..opq", ""), file(".wh.f", ""), file(".wh.none", ""), file(".wh..wh.plnk", ""))
	for _, data := range [][]byte{lower, upper} {
		if err := apply(t, root, data, ApplyOpts{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(paths(t, root), " "); got != "a a/two b b/new" {
		t.Errorf("got %s", got)
	}
}

func paths(t testing.TB, root string) (list []string) {
	t.Helper()
	filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, p); err == nil && rel != "." {
			list = append(list, rel)
		}
		return err
	})
	return list
}

// Applying to the upper directory must look like applying to the mount.
func TestOverlayIsAsGoodAsMounted(t *testing.T) {
	needsRoot(t)
	lower := archive(t, dir("a/"), file("a/one", "1"), file("a/two", "2"), dir("b/"), dir("b/c/"), file("f", "f"), symlink("lib", "a"), dir("gone/"), file("gone/x", ""))
	for name, upper := range map[string][]byte{
		"whiteouts":               archive(t, dir("a/"), file("a/.wh.one", ""), dir("b/"), file("b/new", "n"), file("b/.wh..wh..opq", ""), file(".wh.f", ""), file(".wh.gone", "")),
		"replaced":                archive(t, file("a", "now a file"), dir("f/"), file("f/x", "x")),
		"implied":                 archive(t, file("a/three", "3")),
		"linked":                  archive(t, file("lib/through", "t")),
		"hard link":               archive(t, hardlink("h", "f")),
		"whiteout then directory": archive(t, file(".wh.gone", ""), dir("gone/"), file("gone/y", "")),
		"file then directory":     archive(t, file("gone", ""), dir("gone/"), file("gone/y", "")),
		"directory twice":         archive(t, dir("gone/"), file(".wh.gone", ""), dir("gone/"), file("gone/y", "")),
		"directory then whiteout": archive(t, dir("gone/"), file("gone/y", ""), file(".wh.gone", "")),
		"opaque then entries":     archive(t, dir("b/"), file("b/.wh..wh..opq", ""), file("b/n", "")),
		"whiteout of a link":      archive(t, file(".wh.lib", "")),
		"directory for a link":    archive(t, dir("lib/"), file("lib/x", "")),
		"link for a directory":    archive(t, symlink("a", "b")),
		"whiteout below replaced": archive(t, dir("b/"), dir("b/c/"), file("b/.wh.c", "")),
		"hard links of its own":   archive(t, file("n", "n"), hardlink("m", "n"), hardlink("n2", "m"), hardlink("f", "n")),
		"setgid directory":        archive(t, tar.Header{Name: "g/", Typeflag: tar.TypeDir, Mode: 0o2775, Gid: 7}, file("g/x", ""), dir("g/y/"), file("g/y/z", "")),
		"modes and owners":        archive(t, tar.Header{Name: "w", Mode: 0o666}, tar.Header{Name: "s", Mode: 0o6777, Uid: 1, Gid: 2}, tar.Header{Name: "t/", Typeflag: tar.TypeDir, Mode: 0o1777}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "x", Uid: 5}),
	} {
		t.Run(name, func(t *testing.T) {
			var got [3]string
			plain := t.TempDir()
			for _, data := range [][]byte{lower, upper} {
				if err := apply(t, plain, data, ApplyOpts{}); err != nil {
					t.Fatal(err)
				}
			}
			got[2] = listing(t, plain)
			for i, mounted := range []bool{false, true} {
				base := t.TempDir()
				at := func(n string) string { return filepath.Join(base, n) }
				for _, d := range []string{"lower", "empty", "upper", "work"} {
					os.Mkdir(at(d), 0o755)
				}
				if err := apply(t, at("lower"), lower, ApplyOpts{}); err != nil {
					t.Fatal(err)
				}
				mounts := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"upperdir=" + at("upper"), "workdir=" + at("work"), "lowerdir=" + at("lower") + ":" + at("empty")}}}
				b := blobs{}
				desc := b.put(upper)
				if !mounted {
					if _, err := ApplyBlob(t.Context(), b, desc, mounts, ApplyOpts{Tmp: base}); err != nil {
						t.Fatal(err)
					}
				}
				err := mount.WithTemp(t.Context(), base, mounts, func(root string) error {
					if mounted {
						if err := apply(t, root, upper, ApplyOpts{}); err != nil {
							return err
						}
					}
					got[i] = listing(t, root)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if got[0] != got[1] || got[0] != got[2] {
				t.Errorf("applied to the upper directory:\n%sto the mount:\n%sto a copy:\n%s", got[0], got[1], got[2])
			}
		})
	}
}

func TestHostileArchivesStayInside(t *testing.T) {
	needsRoot(t)
	for name, c := range map[string]struct {
		entries []tar.Header
		fails   bool
	}{
		"dot dot":             {[]tar.Header{file("../out", "x")}, true},
		"deep dot dot":        {[]tar.Header{file("a/../../out", "x")}, true},
		"absolute":            {[]tar.Header{file("/out/x", "x")}, false},
		"absolute link":       {[]tar.Header{symlink("l", "/OUT"), file("l/out", "x")}, true},
		"relative link":       {[]tar.Header{symlink("l", "../../../../../OUT"), file("l/out", "x")}, true},
		"link chain":          {[]tar.Header{symlink("a", "b"), symlink("b", ".."), file("a/out", "x")}, false},
		"over a link":         {[]tar.Header{symlink("l", "OUT/out"), file("l", "x")}, false},
		"hard link out":       {[]tar.Header{hardlink("h", "../OUT/secret")}, true},
		"hard link by link":   {[]tar.Header{symlink("l", "OUT"), hardlink("h", "l/secret")}, true},
		"hard link to link":   {[]tar.Header{symlink("l", "OUT/secret"), hardlink("h", "l"), file("h", "x")}, false},
		"whiteout dot dot":    {[]tar.Header{file(".wh...", "")}, true},
		"whiteout by link":    {[]tar.Header{symlink("l", "OUT"), file("l/.wh.secret", "")}, true},
		"opaque by link":      {[]tar.Header{symlink("l", "OUT"), file("l/.wh..wh..opq", "")}, true},
		"dir over link":       {[]tar.Header{symlink("l", "OUT"), dir("l/"), file("l/out", "x")}, false},
		"file under file":     {[]tar.Header{file("f", "x"), file("f/out", "x")}, true},
		"device out of range": {[]tar.Header{{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 1 << 13}}, true},
		"unknown type":        {[]tar.Header{{Name: "u", Typeflag: 'Z'}}, true},
		"root as file":        {[]tar.Header{file(".", "x")}, true},
		"link as root":        {[]tar.Header{symlink("./", "OUT")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			out, root := filepath.Join(base, "out"), filepath.Join(base, "root")
			os.Mkdir(out, 0o755)
			os.Mkdir(root, 0o755)
			os.WriteFile(filepath.Join(out, "secret"), []byte("s"), 0o600)
			before := listing(t, out)
			for i := range c.entries {
				h := &c.entries[i]
				if h.Typeflag != 0 {
					h.Linkname = strings.Replace(h.Linkname, "OUT", out[1:], 1)
					if strings.HasPrefix(h.Linkname, "tmp/") && h.Typeflag == tar.TypeSymlink {
						h.Linkname = "/" + h.Linkname
					}
				}
			}
			err := apply(t, root, archive(t, c.entries...), ApplyOpts{})
			if (err != nil) != c.fails {
				t.Errorf("error %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "entry ") {
				t.Errorf("the error names no entry: %v", err)
			}
			if after := listing(t, out); after != before {
				t.Errorf("outside was changed:\n%s", after)
			}
			if got := strings.Join(paths(t, base), " "); strings.Contains(strings.ReplaceAll(got, "root/", ""), "out/out") {
				t.Errorf("files: %s", got)
			}
		})
	}
}

func TestHolesTakeNoSpace(t *testing.T) {
	root := t.TempDir()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	const size = 64 << 20
	w.WriteHeader(&tar.Header{Name: "zeros", Size: size + 1, Mode: 0o600})
	io.CopyN(w, zeros{}, size)
	w.Write([]byte{1})
	w.WriteHeader(&tar.Header{Name: "end", Size: 1 << 20, Mode: 0o600})
	io.CopyN(w, zeros{}, 1<<20)
	w.Close()
	if err := apply(t, root, buf.Bytes(), ApplyOpts{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"zeros": size + 1, "end": 1 << 20} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, name), &st); err != nil || st.Size != want || st.Blocks*512 > 1<<20 {
			t.Errorf("%s: size %d, %d bytes on disk, %v", name, st.Size, st.Blocks*512, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestGNUSparse(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "sparse")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("end"), 10<<30)
	f.Close()
	out, err := exec.Command("tar", "-C", dir, "-Scf", "-", "sparse").Output()
	if err != nil {
		t.Skipf("tar cannot make a sparse archive: %v", err)
	}
	root := t.TempDir()
	if err := apply(t, root, out, ApplyOpts{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "sparse"), &st); err != nil || st.Size != 10<<30+3 || st.Blocks*512 > 1<<20 {
		t.Errorf("size %d, %d bytes on disk, %v", st.Size, st.Blocks*512, err)
	}
}

func TestTruncatedArchive(t *testing.T) {
	data := archive(t, file("f", strings.Repeat("x", 5000)))
	err := apply(t, t.TempDir(), data[:3000], ApplyOpts{})
	if err == nil || !strings.Contains(err.Error(), `entry "f"`) {
		t.Errorf("got %v", err)
	}
}

// blobs is a Provider and Ingester in memory.
type blobs map[digest.Digest][]byte

type section struct{ *bytes.Reader }

func (section) Close() error { return nil }

func (b blobs) ReaderAt(_ context.Context, d digest.Digest) (content.ReaderAt, error) {
	return section{bytes.NewReader(b[d])}, nil
}

func (b blobs) put(data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	b[d] = data
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
}

func TestApplyBlobUnpacks(t *testing.T) {
	needsRoot(t)
	plain := archive(t, dir("d/"), file("d/f", strings.Repeat("data", 300000)))
	for _, c := range []Compression{None, Gzip, Zstd} {
		var packed bytes.Buffer
		w, err := NewCompressor(&packed, c)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(plain)
		w.Close()
		b := blobs{}
		desc, root := b.put(packed.Bytes()), t.TempDir()
		got, err := ApplyBlob(t.Context(), b, desc, []mount.Mount{{Type: "bind", Source: root, Options: []string{"rw", "rbind"}}}, ApplyOpts{})
		if err != nil || got.Digest != digest.FromBytes(plain) || got.Size != int64(len(plain)) {
			t.Errorf("%d: %+v, %v", c, got, err)
		}
		if fi, err := os.Stat(filepath.Join(root, "d/f")); err != nil || fi.Size() != 1200000 {
			t.Errorf("%d: %v, %v", c, fi, err)
		}
		desc = b.put(packed.Bytes()[:packed.Len()-100])
		if _, err := ApplyBlob(t.Context(), b, desc, []mount.Mount{{Type: "bind", Source: t.TempDir()}}, ApplyOpts{}); err == nil && c != None {
			t.Errorf("%d: a truncated layer is applied", c)
		}
	}
	b := blobs{}
	desc := b.put(plain)
	desc.MediaType += "+encrypted"
	if _, err := ApplyBlob(t.Context(), b, desc, nil, ApplyOpts{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("encrypted layer: %v", err)
	}
}

func TestCompareAndApplyAreInverse(t *testing.T) {
	needsRoot(t)
	lower, upper := t.TempDir(), t.TempDir()
	base := archive(t, dir("a/"), file("a/keep", "k"), file("a/gone", "g"), dir("b/"), file("b/x", "x"), file("change", "old"))
	for _, root := range []string{lower, upper} {
		if err := apply(t, root, base, ApplyOpts{}); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(filepath.Join(upper, "a/gone"))
	os.RemoveAll(filepath.Join(upper, "b"))
	os.WriteFile(filepath.Join(upper, "change"), []byte("newer"), 0o600)
	os.MkdirAll(filepath.Join(upper, "n/e/w"), 0o711)
	os.Link(filepath.Join(upper, "change"), filepath.Join(upper, "n/link"))
	os.Symlink("x", filepath.Join(upper, "n/s"))
	store, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bind := func(d string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: d, Options: []string{"rw", "rbind"}}}
	}
	for _, mt := range []string{"", ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerZstd} {
		desc, err := Compare(t.Context(), bind(lower), bind(upper), store, DiffOpts{MediaType: mt, Tmp: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		copyOf := t.TempDir()
		if err := apply(t, copyOf, base, ApplyOpts{}); err != nil {
			t.Fatal(err)
		}
		if _, err := ApplyBlob(t.Context(), store, desc, bind(copyOf), ApplyOpts{}); err != nil {
			t.Fatal(err)
		}
		if got, want := listing(t, copyOf), listing(t, upper); got != want {
			t.Errorf("%s: got\n%swant\n%s", mt, got, want)
		}
	}
	if _, err := Compare(t.Context(), bind(lower), bind(upper), store, DiffOpts{MediaType: "text/plain", Tmp: t.TempDir()}); !errdefs.IsNotImplemented(err) {
		t.Errorf("unknown media type: %v", err)
	}
}

func TestTheSameFilesMakeTheSameLayer(t *testing.T) {
	needsRoot(t)
	lower, upper := t.TempDir(), t.TempDir()
	if err := apply(t, lower, archive(t, file("gone", "g")), ApplyOpts{}); err != nil {
		t.Fatal(err)
	}
	store, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bind := func(d string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: d, Options: []string{"rbind"}}}
	}
	var made [2]digest.Digest
	for i := range made {
		desc, err := Compare(t.Context(), bind(lower), bind(upper), store, DiffOpts{Tmp: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		made[i] = desc.Digest
	}
	if made[0] != made[1] {
		t.Errorf("a whiteout makes %s, then %s", made[0], made[1])
	}
}

func FuzzApply(f *testing.F) {
	f.Add(archive(f, dir("a/"), file("a/f", "x"), symlink("l", "/"), hardlink("h", "a/f"), file("a/.wh.f", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		root := filepath.Join(base, "root")
		os.Mkdir(root, 0o755)
		if len(data) > 1<<16 {
			return
		}
		Apply(t.Context(), root, bytes.NewReader(data), ApplyOpts{})
		if entries, _ := os.ReadDir(base); len(entries) != 1 {
			t.Errorf("%d entries beside the root", len(entries))
		}
	})
}
