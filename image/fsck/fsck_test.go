// SPDX-License-Identifier: Apache-2.0

package fsck

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/diff"
)

func store(t *testing.T, data []byte) (*content.Local, string) {
	t.Helper()
	dir := t.TempDir()
	l, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := l.Writer(context.Background(), content.WriterOpts{Ref: "x"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(context.Background(), int64(len(data)), "", nil); err != nil {
		t.Fatal(err)
	}
	return l, filepath.Join(dir, "blobs", "sha256", digest.FromBytes(data).Encoded())
}

func TestBlobFindsWhatIsDamaged(t *testing.T) {
	data := []byte("some content")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	for _, c := range []struct {
		name   string
		damage []byte
		is     func(error) bool
	}{
		{"nothing", data, nil},
		{"a changed byte", []byte("some c0ntent"), errdefs.IsDataLoss},
		{"a lost end", []byte("some"), errdefs.IsDataLoss},
	} {
		l, file := store(t, data)
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, c.damage, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Blob(context.Background(), l, desc); c.is == nil && err != nil || c.is != nil && !c.is(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	l, _ := store(t, data)
	if err := Blob(context.Background(), l, ocispec.Descriptor{Digest: digest.FromString("other")}); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
}

// archive has a file, links and a directory, all of this process's user.
func archive(t testing.TB) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "dir/file", Typeflag: tar.TypeReg, Mode: 0o640, Size: 5},
		{Name: "dir/hard", Typeflag: tar.TypeLink, Linkname: "dir/file"},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/file"},
		{Name: ".wh.gone", Typeflag: tar.TypeReg},
	} {
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, "hello")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLayerFindsWhatIsDamaged(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(root string) error
		want   []Fault
	}{
		"nothing":   {func(string) error { return nil }, nil},
		"content":   {func(r string) error { return os.WriteFile(r+"/dir/file", []byte("hexxo"), 0) }, []Fault{{"dir/file", "of another content"}}},
		"size":      {func(r string) error { return os.Truncate(r+"/dir/file", 2) }, []Fault{{"dir/file", "2 bytes, not 5"}}},
		"mode":      {func(r string) error { return os.Chmod(r+"/dir/file", 0o600) }, []Fault{{"dir/file", "of mode 0600, not 0640"}}},
		"lost file": {func(r string) error { return os.Remove(r + "/dir/hard") }, []Fault{{"dir/hard", "missing"}}},
		"lost tree": {func(r string) error { return os.RemoveAll(r + "/dir") }, []Fault{{"dir", "missing"}, {"dir/file", "missing"}, {"dir/hard", "missing"}}},
		"link": {func(r string) error {
			os.Remove(r + "/link")
			return os.Symlink("dir/other", r+"/link")
		}, []Fault{{"link", "a link to elsewhere"}}},
		"type": {func(r string) error {
			os.Remove(r + "/link")
			return os.Mkdir(r+"/link", 0o777)
		}, []Fault{{"link", "of type 040000, not 0120000"}}},
		"whiteout": {func(r string) error { return os.WriteFile(r+"/gone", nil, 0o600) }, []Fault{{"gone", "there, but removed by the layer"}}},
	} {
		root := t.TempDir()
		if _, err := diff.Apply(context.Background(), root, bytes.NewReader(archive(t)), diff.ApplyOpts{}); err != nil {
			t.Fatal(err)
		}
		if err := c.damage(root); err != nil {
			t.Fatal(err)
		}
		got, err := Layer(context.Background(), root, bytes.NewReader(archive(t)))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
}

func FuzzLayer(f *testing.F) {
	f.Add(archive(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		Layer(context.Background(), t.TempDir(), bytes.NewReader(data))
	})
}
