// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"slipway/test/host"
	"slipway/test/hub"
)

// pack makes a layer of entries; the content of a file is in its Linkname.
func pack(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		h.Mode = 0o755
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname, h.Size = h.Linkname, "", int64(len(h.Linkname))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Layers that lead out of their root write nothing there, whichever layer of
// the image they are, and the error names the entry.
func TestHostileLayersStayInside(t *testing.T) {
	d := host.Start(t, host.Options{})
	h := hub.New(t, hub.Options{})
	outside := filepath.Join(d.Dir, "outside")
	secret := filepath.Join(outside, "secret")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: "hostile"}
	}
	link := tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: outside}
	below := pack(t, tar.Header{Typeflag: tar.TypeDir, Name: "etc/"}, link)
	for claim, layers := range map[string][][]byte{
		"dot dot":                       {pack(t, file("../../../../outside/new"))},
		"absolute link":                 {pack(t, link, file("link/new"))},
		"link swapped for a directory":  {pack(t, tar.Header{Typeflag: tar.TypeDir, Name: "link/"}, link, file("link/new"))},
		"relative link":                 {pack(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "up", Linkname: "../../../../../../outside"}, file("up/new"))},
		"hard link":                     {pack(t, tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "../../../../outside/secret"}, file("hard"))},
		"whiteout through a link":       {pack(t, link, file("link/.wh.secret"))},
		"opaque directory through link": {pack(t, link, file("link/.wh..wh..opq"))},
		"device that Linux has not":     {pack(t, tar.Header{Typeflag: tar.TypeBlock, Name: "dev", Devmajor: 1 << 13, Devminor: 1})},
		"no archive":                    {bytes.Repeat([]byte("not a tar archive"), 1000)},
	} {
		for i, stack := range map[string][][]byte{"first": layers, "last": append([][]byte{below}, layers...)} {
			t.Run(claim+" "+i, func(t *testing.T) {
				h.Image("hostile", "v1", runtime.GOARCH, stack...)
				for _, snapshotter := range []string{"overlayfs", "native"} {
					fails(t, d, 1, "layer sha256:", pullArgs("--snapshotter", snapshotter, h.Ref("hostile", "v1"))...)
				}
				if out := d.Ctr(t, "i", "ls", "-q"); out != "" {
					t.Errorf("images: %q", out)
				}
				unchanged(t, outside)
			})
		}
	}
	empty(t, d)
}

// unchanged requires that a directory has nothing but the file secret.
func unchanged(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "secret"))
	if err != nil || string(data) != "kept" || len(entries) != 1 {
		t.Errorf("outside was changed: %q, %v, %v", data, entries, err)
	}
}

// A link that the layer below left is as good as one of the layer's own.
func TestLinkOfTheLayerBelowLeadsNowhere(t *testing.T) {
	d := host.Start(t, host.Options{})
	h := hub.New(t, hub.Options{})
	outside := filepath.Join(d.Dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := pack(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: outside})
	for _, name := range []string{"link/new", "link/.wh.secret", "link/.wh..wh..opq"} {
		h.Image("two", "v1", runtime.GOARCH, link, pack(t, tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: "hostile"}))
		for _, snapshotter := range []string{"overlayfs", "native"} {
			d.Try(t, pullArgs("--snapshotter", snapshotter, h.Ref("two", "v1"))...)
			unchanged(t, outside)
		}
	}
}

func TestHugeLayersOfLittle(t *testing.T) {
	host.NeedBuilt(t)
	d := host.Start(t, host.Options{Dir: memoryDir(t, "512m")})
	h := hub.New(t, hub.Options{})
	dir := host.TempDir(t)
	hole, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	if _, err := hole.WriteAt([]byte("end"), 10<<30); err != nil {
		t.Fatal(err)
	}
	sparse, err := exec.Command("tar", "-C", dir, "-Scf", "-", "hole").Output()
	if err != nil {
		t.Skipf("tar cannot make a sparse archive: %v", err)
	}
	h.Image("hole", "v1", runtime.GOARCH, sparse)
	d.Ctr(t, pullArgs(h.Ref("hole", "v1"))...) // there are 512 MiB for its 10 GiB
	entries := make([]tar.Header, 1e6)
	for i := range entries {
		entries[i] = tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("file", i%1000)}
	}
	h.Image("many", "v1", runtime.GOARCH, pack(t, entries...))
	d.Ctr(t, pullArgs(h.Ref("many", "v1"))...)
	if kb := memory(t, d); kb > 200<<10 {
		t.Errorf("the daemon has grown to %d KiB", kb)
	}
	empty(t, d)
}
