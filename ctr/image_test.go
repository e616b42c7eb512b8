// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"os"
	osexec "os/exec"
	"runtime"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// busyboxLayer is a root file system with the busybox of this machine, as a
// tar archive.
func busyboxLayer(t *testing.T) []byte {
	path, err := osexec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	applets, err := osexec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, data string) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(data))
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "sys", "tmp"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, "")
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}, "")
		}
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\nweb:x:34:\nlogs:x:35:web\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// putImage pushes an image of one layer to the registry at url as latest.
func putImage(t *testing.T, url, name string, layer []byte) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(layer)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ocispec.ImageConfig{Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "FROM=image"}, Labels: map[string]string{"maker": "test"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}
	put := func(mediaType string, v any) ocispec.Descriptor {
		data, raw := v.([]byte)
		if !raw {
			var err error
			if data, err = json.Marshal(v); err != nil {
				t.Fatal(err)
			}
		}
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if mediaType == ocispec.MediaTypeImageManifest {
			send(t, http.MethodPut, url+"/v2/"+name+"/manifests/latest", mediaType, data)
		} else {
			send(t, http.MethodPost, url+"/v2/"+name+"/blobs/uploads/?digest="+d.Digest.String(), "application/octet-stream", data)
		}
		return d
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	manifest.Layers = []ocispec.Descriptor{put(ocispec.MediaTypeImageLayerGzip, packed.Bytes())}
	manifest.Config = put(ocispec.MediaTypeImageConfig, config)
	put(ocispec.MediaTypeImageManifest, manifest)
}

func send(t *testing.T, method, url, mediaType string, data []byte) {
	r, err := http.NewRequest(method, url, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s: %s", method, url, resp.Status)
	}
}
