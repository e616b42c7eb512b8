// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/image"
)

func newStore(t testing.TB) *content.Local {
	t.Helper()
	l, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pack makes an archive. An entry is its header and its body, if it has one.
type entry struct {
	tar.Header
	body string
}

func pack(t testing.TB, entries ...entry) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag, e.Size = tar.TypeReg, int64(len(e.body))
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	w.Close()
	return &buf
}

func doc(name, body string) entry { return entry{tar.Header{Name: name}, body} }

func link(kind byte, name, to string) entry {
	return entry{tar.Header{Name: name, Linkname: to, Typeflag: kind}, ""}
}

const (
	layout = `{"imageLayoutVersion":"1.0.0"}`
	config = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
)

// saves is a docker save of one image whose layer is at the given path.
func saves(layer string) entry {
	return doc("manifest.json", `[{"Config":"c.json","RepoTags":["busybox:1"],"Layers":["`+layer+`"]}]`)
}

func read(t *testing.T, s Store, r io.Reader, opts ReadOpts) (ocispec.Index, error) {
	t.Helper()
	desc, err := Read(t.Context(), r, s, opts)
	if err != nil {
		return ocispec.Index{}, err
	}
	index, err := image.ReadIndex(t.Context(), s, desc)
	if err != nil {
		t.Fatal(err)
	}
	return index, nil
}

func TestDockerLayersAreFound(t *testing.T) {
	for claim, entries := range map[string][]entry{
		"by path":          {doc("c.json", config), doc("l/layer.tar", "bytes"), saves("l/layer.tar")},
		"manifest first":   {saves("l/layer.tar"), doc("c.json", config), doc("l/layer.tar", "bytes")},
		"through symlink":  {doc("c.json", config), link(tar.TypeSymlink, "l/layer.tar", "../x.tar"), doc("x.tar", "bytes"), saves("l/layer.tar")},
		"through two":      {doc("c.json", config), link(tar.TypeSymlink, "a", "l/b"), link(tar.TypeSymlink, "l/b", "../x.tar"), doc("x.tar", "bytes"), saves("a")},
		"through hardlink": {doc("c.json", config), doc("x.tar", "bytes"), link(tar.TypeLink, "l/layer.tar", "x.tar"), saves("l/layer.tar")},
		"dotted":           {doc("./c.json", config), doc("./l.tar", "bytes"), saves("l.tar")},
	} {
		t.Run(claim, func(t *testing.T) {
			s := newStore(t)
			index, err := read(t, s, pack(t, entries...), ReadOpts{})
			if err != nil || len(index.Manifests) != 1 {
				t.Fatalf("%v, %v", index.Manifests, err)
			}
			d := index.Manifests[0]
			if d.Annotations[NameAnnotation] != "docker.io/library/busybox:1" || d.Annotations[TagAnnotation] != "1" || d.Platform.Architecture != "amd64" {
				t.Errorf("descriptor: %+v", d)
			}
			m, err := image.ReadManifest(t.Context(), s, d)
			if err != nil || len(m.Layers) != 1 || m.Layers[0].Digest != digest.FromString("bytes") || m.Layers[0].MediaType != dockerLayer {
				t.Errorf("manifest: %+v, %v", m, err)
			}
		})
	}
}

func TestDockerLayersAreCompressedOnDemand(t *testing.T) {
	s := newStore(t)
	body := strings.Repeat("layer", 1000)
	index, err := read(t, s, pack(t, doc("c.json", config), doc("l.tar", body), saves("l.tar")), ReadOpts{Compress: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.ReadManifest(t.Context(), s, index.Manifests[0])
	if err != nil || m.Layers[0].MediaType != dockerLayer+".gzip" || m.Layers[0].Size >= int64(len(body)) {
		t.Errorf("manifest: %+v, %v", m, err)
	}
}

func TestBadArchivesAreRefused(t *testing.T) {
	blob := digest.FromString("x")
	for claim, c := range map[string]struct {
		r    io.Reader
		says string
	}{
		"no archive":          {strings.NewReader(strings.Repeat("no archive", 100)), "malformed"},
		"empty":               {strings.NewReader(""), "unrecognized image format"},
		"no image":            {pack(t, doc("a", "b")), "unrecognized image format"},
		"cut short":           {io.LimitReader(pack(t, doc("a", strings.Repeat("b", 4096))), 1024), "cut short"},
		"leads out":           {pack(t, doc("../../etc/passwd", "x")), "leads out"},
		"wrong digest":        {pack(t, doc(blobName(blob), "y")), "unexpected commit digest"},
		"no digest":           {pack(t, doc("blobs/sha256/../x", "y"), doc("blobs/md5/abc", "y")), "blob"},
		"layout of tomorrow":  {pack(t, doc("oci-layout", `{"imageLayoutVersion":"9"}`)), `unsupported version "9"`},
		"layout is no JSON":   {pack(t, doc("oci-layout", `{`)), "oci-layout"},
		"no index":            {pack(t, doc("oci-layout", layout)), "index.json is missing"},
		"manifest is no JSON": {pack(t, doc("manifest.json", `{`)), "manifest.json"},
		"absent config":       {pack(t, saves("l")), "c.json is not in the archive"},
		"absent layer":        {pack(t, doc("c.json", config), saves("l")), "l is not in the archive"},
		"config leads out":    {pack(t, doc("manifest.json", `[{"Config":"../../etc/passwd"}]`)), "leads out"},
		"bad name":            {pack(t, doc("c.json", config), doc("manifest.json", `[{"Config":"c.json","RepoTags":["///"]}]`)), "name"},
		"circle of links":     {pack(t, doc("c.json", config), link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), saves("a")), "limit of 40 links"},
		"sparse file":         {sparse(), "sparse"},
		"huge manifest":       {huge("manifest.json", 100<<20), fmt.Sprintf("limit of %d", image.MaxDocument)},
		"huge index":          {huge("index.json", 100<<20), fmt.Sprintf("limit of %d", image.MaxDocument)},
		"huge config":         {io.MultiReader(head(t, saves("l")), huge("c.json", 100<<20)), fmt.Sprintf("limit of %d", image.MaxDocument)},
		"gzip that ends":      {strings.NewReader("\x1f\x8b\x08\x00"), "gzip"},
	} {
		t.Run(claim, func(t *testing.T) {
			s := newStore(t)
			_, err := read(t, s, c.r, ReadOpts{})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("kind of %v", err)
			}
			if left, err := s.ListStatuses(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("ingests left: %v, %v", left, err)
			}
		})
	}
}

// sparse is an archive of 512 bytes with an old GNU sparse file of 10 GiB.
func sparse() io.Reader {
	h := make([]byte, 512, 1536)
	for at, field := range map[int]string{
		0: "hole", 100: "0000644", 108: "0000000", 116: "0000000", 124: "00000000000", 136: "00000000000", 148: "        ",
		156: "S", 257: "ustar  ", 483: fmt.Sprintf("%o", 10<<30),
	} {
		copy(h[at:], field)
	}
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return bytes.NewReader(h[:1536])
}

// head is an archive without its end.
func head(t *testing.T, entries ...entry) io.Reader {
	buf := pack(t, entries...)
	buf.Truncate(buf.Len() - 1024)
	return buf
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// huge is an archive of one file of zeros.
func huge(name string, size int64) io.Reader {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	w.WriteHeader(&tar.Header{Name: name, Size: size, Typeflag: tar.TypeReg})
	return io.MultiReader(&buf, io.LimitReader(zeros{}, size+1024))
}

// many is an archive of n empty files.
func many(n int) io.Reader {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		for i := range n {
			if tw.WriteHeader(&tar.Header{Name: fmt.Sprint("d/", i), Typeflag: tar.TypeDir}) != nil {
				return
			}
		}
		w.CloseWithError(tw.Close())
	}()
	return r
}

func TestTooManyEntries(t *testing.T) {
	r := many(maxEntries + 1)
	_, err := read(t, newStore(t), r, ReadOpts{})
	r.(io.Closer).Close()
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "limit of 200000") {
		t.Errorf("got %v", err)
	}
}

func TestName(t *testing.T) {
	for _, c := range []struct {
		full, tag, prefix string
		own               bool
		want              string
	}{
		{"docker.io/library/a:b", "b", "p", true, "docker.io/library/a:b"},
		{"", "v1", "p", false, "p:v1"},
		{"", "v1", "", false, ""},
		{"", "", "p", false, ""},
		{"", "x/y:z", "p", false, "x/y:z"},
		{"", "x/y:z", "p", true, ""},
		{"", "p/y:z", "p", true, "p/y:z"},
		{"", "pp/y:z", "p", true, ""},
		{"", "p:z", "p", true, "p:z"},
		{"", "p@z", "p", true, "p@z"},
	} {
		if got := Name(map[string]string{NameAnnotation: c.full, TagAnnotation: c.tag}, c.prefix, c.own); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestWrittenBlobsAreVerified(t *testing.T) {
	dir := t.TempDir()
	s, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := read(t, s, pack(t, doc("c.json", config), doc("l.tar", "bytes"), saves("l.tar")), ReadOpts{})
	if err != nil {
		t.Fatal(err)
	}
	images := []Image{{"docker.io/library/busybox:1", index.Manifests[0]}}
	if err := Write(t.Context(), io.Discard, s, images, WriteOpts{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blobs/sha256", digest.FromString("bytes").Encoded())
	os.Chmod(path, 0o644)
	if err := os.WriteFile(path, []byte("BYTES"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), io.Discard, s, images, WriteOpts{}); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, io.Discard, s, images, WriteOpts{}); err == nil {
		t.Error("a cancelled write succeeded")
	}
}

func TestManifestJSONNamesWhatDockerTakes(t *testing.T) {
	s := newStore(t)
	index, err := read(t, s, pack(t, doc("c.json", config), doc("l.tar", "bytes"), saves("l.tar")), ReadOpts{})
	if err != nil {
		t.Fatal(err)
	}
	target := index.Manifests[0]
	var out bytes.Buffer
	images := []Image{{"docker.io/library/busybox:1", target}, {"reg.example/x:2", target}, {"reg.example/x@" + target.Digest.String(), target}, {"odd name", target}}
	if err := Write(t.Context(), &out, s, images, WriteOpts{}); err != nil {
		t.Fatal(err)
	}
	var all []saved
	var last string
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name < last {
			t.Errorf("%s after %s", h.Name, last)
		}
		last = h.Name
		if h.Name == manifestFile {
			if err := json.NewDecoder(tr).Decode(&all); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(all) != 1 || strings.Join(all[0].RepoTags, " ") != "busybox:1 reg.example/x:2" {
		t.Errorf("got %+v", all)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(pack(f, doc("c.json", config), link(tar.TypeSymlink, "l", "x"), doc("x", "bytes"), saves("l")).Bytes())
	f.Add(pack(f, doc("oci-layout", layout), doc("index.json", `{"manifests":[]}`)).Bytes())
	f.Add([]byte("\x1f\x8b\x08\x00"))
	s := newStore(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		desc, err := Read(t.Context(), bytes.NewReader(data), s, ReadOpts{Compress: true})
		if err == nil && desc.Digest.Validate() != nil {
			t.Errorf("index %q", desc.Digest)
		}
	})
}
