// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/image/convert"
)

func silent(Progress) {}

// skopeo runs the peer.
func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo")
	}
	cmd := exec.Command(bin, append([]string{"--insecure-policy", "--override-os=linux", "--override-arch=amd64"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo %s: %v: %s", args, err, out)
	}
	return string(out)
}

func importOpts(refs ...Reference) ImportOpts {
	return ImportOpts{Store: StoreOpts{
		Platforms: []ocispec.Platform{linux}, Unpacks: []Unpack{{linux, "overlayfs"}}, References: refs,
	}}
}

func (w *world) names(t *testing.T) string {
	t.Helper()
	all, err := w.DB.Images(scope).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, img := range all {
		names = append(names, img.Name)
	}
	return strings.Join(names, " ")
}

func TestImportsWhatSkopeoWrites(t *testing.T) {
	ref := serve(t, nil) + "/x:t"
	upload(t, ref, testImage(t, "amd64"))
	for _, c := range []struct{ to, want string }{
		{"oci-archive:%s:v1", "base:v1"},
		{"docker-archive:%s:some/app:v2", "docker.io/some/app:v2"},
		{"docker-archive:%s", "base@sha256:"},
		{"oci-archive:%s", "base@sha256:"},
	} {
		t.Run(c.to, func(t *testing.T) {
			w := newWorld(t)
			file := filepath.Join(t.TempDir(), "a.tar")
			skopeo(t, "copy", "--src-tls-verify=false", "docker://"+ref, strings.Replace(c.to, "%s", file, 1))
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := w.Import(t.Context(), scope, f, importOpts(Reference{Name: "base", IsPrefix: true, AllowOverwrite: true}), silent); err != nil {
				t.Fatal(err)
			}
			if got := w.names(t); !strings.HasPrefix(got, c.want) || strings.Contains(got, " ") {
				t.Errorf("names: %s, want %s", got, c.want)
			}
			w.clean(t)
			if got := w.files(t, "overlayfs"); got != "a a/three a/two b b/amd64" {
				t.Errorf("files: %s", got)
			}
		})
	}
}

// pulled is a world with an image of two platforms, of which one is present.
func pulled(t *testing.T) (w *world, ref string) {
	t.Helper()
	w = newWorld(t)
	ref = serve(t, nil) + "/x:t"
	var adds []mutate.IndexAddendum
	for _, arch := range []string{"amd64", "s390x"} {
		adds = append(adds, mutate.IndexAddendum{Add: testImage(t, arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r, mutate.AppendManifests(empty.Index, adds...)); err != nil {
		t.Fatal(err)
	}
	if err := w.Pull(t.Context(), scope, ref, pullOpts("docker.io/library/busybox:latest", "")); err != nil {
		t.Fatal(err)
	}
	return w, ref
}

func TestExportsWhatSkopeoReads(t *testing.T) {
	w, ref := pulled(t)
	want := skopeo(t, "inspect", "--tls-verify=false", "--format", "{{.Digest}} {{.Layers}}", "docker://"+strings.Replace(ref, "127.0.0.1", "localhost", 1))
	file := filepath.Join(t.TempDir(), "out.tar")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := w.Export(t.Context(), scope, out, ExportOpts{Images: []Reference{{Name: "docker.io/library/busybox:latest"}}}, silent); err != nil {
		t.Fatal(err)
	}
	layers := func(s string) string { return s[strings.Index(s, "[")+1:] }
	if got := skopeo(t, "inspect", "--format", "{{.Digest}} {{.Layers}}", "oci-archive:"+file+":latest"); layers(got) != layers(want) {
		t.Errorf("as OCI archive: %s, want %s", got, want)
	}
	got := skopeo(t, "inspect", "--format", "{{.RepoTags}} {{.Layers}}", "docker-archive:"+file+":busybox:latest")
	if strings.Count(got, "sha256:") != 3 {
		t.Errorf("as Docker archive: %s", got)
	}
}

func TestExportAndImportAreTheSameImage(t *testing.T) {
	w, _ := pulled(t)
	const busybox = "docker.io/library/busybox:latest"
	img, err := w.DB.Images(scope).Get(t.Context(), busybox)
	if err != nil {
		t.Fatal(err)
	}
	var plain, again bytes.Buffer
	for _, b := range []*bytes.Buffer{&plain, &again} {
		if err := w.Export(t.Context(), scope, b, ExportOpts{Images: []Reference{{Name: busybox}}}, silent); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(plain.Bytes(), again.Bytes()) {
		t.Error("two exports differ")
	}
	for pack, with := range map[string]func(io.Writer) io.WriteCloser{
		"plain": func(w io.Writer) io.WriteCloser {
			return struct {
				io.Writer
				io.Closer
			}{w, io.NopCloser(nil)}
		},
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
	} {
		t.Run(pack, func(t *testing.T) {
			var packed bytes.Buffer
			z := with(&packed)
			z.Write(plain.Bytes())
			z.Close()
			other := newWorld(t)
			if err := other.Import(t.Context(), scope, &packed, importOpts(Reference{Name: "i", IsPrefix: true, AllowOverwrite: true}), silent); err != nil {
				t.Fatal(err)
			}
			got, err := other.DB.Images(scope).Get(t.Context(), busybox)
			if err != nil || got.Target.Digest != img.Target.Digest {
				t.Errorf("got %v, %v; want %v", got.Target.Digest, err, img.Target.Digest)
			}
			other.clean(t)
			if got := other.files(t, "overlayfs"); got != "a a/three a/two b b/amd64" {
				t.Errorf("files: %s", got)
			}
		})
	}
}

func TestExportOfAbsentPlatforms(t *testing.T) {
	w, _ := pulled(t)
	for _, opts := range []ExportOpts{
		{AllPlatforms: true},
		{Platforms: []ocispec.Platform{{OS: "linux", Architecture: "s390x"}}},
	} {
		opts.Images = []Reference{{Name: "docker.io/library/busybox:latest"}}
		var out bytes.Buffer
		if err := w.Export(t.Context(), scope, &out, opts, silent); !errdefs.IsNotFound(err) || out.Len() != 0 {
			t.Errorf("%+v: wrote %d bytes, %v", opts, out.Len(), err)
		}
	}
	if err := w.Export(t.Context(), scope, io.Discard, ExportOpts{Images: []Reference{{Name: "none"}}}, silent); !errdefs.IsNotFound(err) {
		t.Errorf("unknown image: %v", err)
	}
}

func TestNamesOfImportedImages(t *testing.T) {
	w, _ := pulled(t)
	var plain bytes.Buffer
	if err := w.Export(t.Context(), scope, &plain, ExportOpts{Images: []Reference{{Name: "docker.io/library/busybox:latest"}}}, silent); err != nil {
		t.Fatal(err)
	}
	for claim, c := range map[string]struct {
		index string
		refs  []Reference
		want  []string // prefixes
	}{
		"full name":            {"", []Reference{{Name: "p", IsPrefix: true, AllowOverwrite: true}}, []string{"docker.io/library/busybox:latest"}},
		"digest too":           {"", []Reference{{Name: "p", IsPrefix: true, AllowOverwrite: true, AddDigest: true}}, []string{"docker.io/library/busybox:latest", "p@sha256:", "p@sha256:"}}, // of the image and of the index
		"no digest to a name":  {"", []Reference{{Name: "p", IsPrefix: true, AllowOverwrite: true, AddDigest: true, SkipNamedDigest: true}}, []string{"docker.io/library/busybox:latest", "p@sha256:"}},
		"index":                {"whole", []Reference{{Name: "p", IsPrefix: true, AllowOverwrite: true}}, []string{"docker.io/library/busybox:latest", "whole"}},
		"index under two":      {"whole", []Reference{{Name: "other"}}, []string{"other", "whole"}},
		"no name is an error":  {"", nil, nil},
		"name of index digest": {"", []Reference{{Name: "i", AddDigest: true}}, []string{"i@sha256:"}},
	} {
		t.Run(claim, func(t *testing.T) {
			other := newWorld(t)
			opts := importOpts(c.refs...)
			opts.Store.Name, opts.Store.Unpacks = c.index, nil
			err := other.Import(t.Context(), scope, bytes.NewReader(plain.Bytes()), opts, silent)
			if (err == nil) != (c.want != nil) {
				t.Fatal(err)
			}
			got := strings.Fields(other.names(t))
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("names %q, want %q", got, c.want)
			}
		})
	}
}

// Names that an archive gives beside that of the whole go with it.
func TestNamesOfAnArchiveLiveAsLongAsItsIndex(t *testing.T) {
	w, _ := pulled(t)
	var plain bytes.Buffer
	if err := w.Export(t.Context(), scope, &plain, ExportOpts{Images: []Reference{{Name: "docker.io/library/busybox:latest"}}}, silent); err != nil {
		t.Fatal(err)
	}
	other := newWorld(t)
	opts := importOpts(Reference{Name: "p", IsPrefix: true, AllowOverwrite: true, AddDigest: true})
	opts.Store.Name, opts.Store.Unpacks = "whole", nil
	if err := other.Import(t.Context(), scope, &plain, opts, silent); err != nil {
		t.Fatal(err)
	}
	const want = "docker.io/library/busybox:latest p@"
	if other.clean(t); !strings.HasPrefix(other.names(t), want) || !strings.HasSuffix(other.names(t), " whole") {
		t.Fatalf("names after a collection: %s", other.names(t))
	}
	if err := other.DB.Images(scope).Delete(t.Context(), "whole", nil); err != nil {
		t.Fatal(err)
	}
	if other.clean(t); other.names(t) != "" {
		t.Errorf("names without the index: %s", other.names(t))
	}
}

func TestConvertedImageHasTheSameSnapshots(t *testing.T) {
	w, _ := pulled(t)
	to := diff.Zstd
	if err := w.Convert(t.Context(), scope, "docker.io/library/busybox:latest", "zstd", convert.Options{Layers: &to}); err != nil {
		t.Fatal(err)
	}
	w.clean(t)
	var out bytes.Buffer
	if err := w.Export(t.Context(), scope, &out, ExportOpts{Images: []Reference{{Name: "zstd"}}}, silent); err != nil {
		t.Fatal(err)
	}
	other := newWorld(t)
	if err := other.Import(t.Context(), scope, &out, importOpts(Reference{Name: "i", IsPrefix: true, AllowOverwrite: true}), silent); err != nil {
		t.Fatal(err)
	}
	if got := other.files(t, "overlayfs"); got != "a a/three a/two b b/amd64" {
		t.Errorf("files: %s", got)
	}
}

func TestExportOfAPrefix(t *testing.T) {
	w, _ := pulled(t)
	images := w.DB.Images(scope)
	img, err := images.Get(t.Context(), "docker.io/library/busybox:latest")
	if err != nil {
		t.Fatal(err)
	}
	byDigest := "docker.io/library/busybox@" + img.Target.Digest.String()
	for _, name := range []string{"docker.io/library/busybox:1", byDigest, "docker.io/library/busyboxes:1"} {
		img.Name = name
		if _, err := images.Create(t.Context(), img); err != nil {
			t.Fatal(err)
		}
	}
	prefix := Reference{Name: "docker.io/library/busybox", IsPrefix: true}
	digests, unnamed := prefix, prefix
	digests.AddDigest = true
	unnamed.AddDigest, unnamed.SkipNamedDigest = true, true
	tags := []string{"docker.io/library/busybox:1", "docker.io/library/busybox:latest"}
	for claim, c := range map[string]struct {
		ref  Reference
		want []string
	}{"tags": {prefix, tags}, "digests too": {digests, append(slices.Clone(tags), byDigest)}, "digests of what has no tag": {unnamed, tags}} {
		all, err := w.named(t.Context(), scope, []Reference{c.ref})
		var got []string
		for _, i := range all {
			got = append(got, i.Name)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v", claim, got, err)
		}
	}
	if _, err := w.named(t.Context(), scope, []Reference{{Name: "docker.io/library/busy", IsPrefix: true}}); !errdefs.IsNotFound(err) {
		t.Errorf("a prefix of nothing: %v", err)
	}
}
