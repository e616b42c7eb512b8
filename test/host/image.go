// SPDX-License-Identifier: Apache-2.0

package host

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Entry is one entry of a layer. Content is that of a regular file; Link
// makes it a symbolic link.
type Entry struct {
	Name    string
	Mode    int64
	Content []byte
	Link    string
}

// Layer packs entries as an uncompressed tar archive. A name that ends in a
// slash is a directory.
func Layer(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.Name, Mode: e.Mode, Size: int64(len(e.Content)), Typeflag: tar.TypeReg}
		switch {
		case e.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		case strings.HasSuffix(e.Name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// BusyboxLayer is a root file system of Debian's static busybox.
func BusyboxLayer(t testing.TB) []byte {
	t.Helper()
	Need(t, "busybox")
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static: run make setup")
	}
	names, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	entries := []Entry{
		{Name: "bin/", Mode: 0o755}, {Name: "etc/", Mode: 0o755}, {Name: "root/", Mode: 0o700}, {Name: "tmp/", Mode: 0o1777},
		{Name: "proc/", Mode: 0o755}, {Name: "sys/", Mode: 0o755}, {Name: "dev/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Content: program},
		{Name: "etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{Name: "etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnogroup:x:65534:\n")},
	}
	for _, n := range strings.Fields(string(names)) {
		if n != "busybox" {
			entries = append(entries, Entry{Name: "bin/" + n, Mode: 0o777, Link: "busybox"})
		}
	}
	return Layer(t, entries...)
}

// Busybox writes an OCI layout with an image of busybox, and more layers above
// it, and returns its directory. The image's tag is latest.
func Busybox(t testing.TB, more ...[]byte) string {
	t.Helper()
	return Image(t, ocispec.ImageConfig{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"sh"},
	}, append([][]byte{BusyboxLayer(t)}, more...)...)
}

// Image writes an OCI layout with one image of this machine's platform, its
// layers compressed by gzip, and returns its directory. The tag is latest.
func Image(t testing.TB, config ocispec.ImageConfig, layers ...[]byte) string {
	t.Helper()
	dir := TempDir(t)
	img := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   config, RootFS: ocispec.RootFS{Type: "layers"},
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
		m.Layers = append(m.Layers, blob(t, dir, ocispec.MediaTypeImageLayerGzip, compress(l)))
	}
	m.Config = blob(t, dir, ocispec.MediaTypeImageConfig, marshal(t, img))
	top := blob(t, dir, ocispec.MediaTypeImageManifest, marshal(t, m))
	top.Annotations = map[string]string{ocispec.AnnotationRefName: "latest"}
	write(t, filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write(t, filepath.Join(dir, ocispec.ImageIndexFile), marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top},
	}))
	return dir
}

func compress(data []byte) []byte {
	var buf bytes.Buffer
	w, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	io.Copy(w, bytes.NewReader(data))
	w.Close()
	return buf.Bytes()
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// blob stores data in a layout and returns its descriptor.
func blob(t testing.TB, layout, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d := digest.FromBytes(data)
	write(t, filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded()), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
