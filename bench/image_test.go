// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/test/host"
)

// sevenLayers is an image of about 1.6 GB of this machine's files.
func sevenLayers(t *testing.T) string {
	t.Helper()
	const size = 230 << 20
	var layers [][]byte
	for i := range int64(7) {
		layers = append(layers, files(t, "/usr", i*size, size))
	}
	return host.Image(t, ocispec.ImageConfig{Cmd: []string{"sh"}}, layers...)
}

// files packs size bytes of the files below dir, in the order of their names,
// after the first skip bytes.
func files(t *testing.T, dir string, skip, size int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	seen := int64(0)
	made := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > size/4 {
			return err
		}
		seen += info.Size()
		if seen <= skip {
			return nil
		}
		if seen > skip+size {
			return fs.SkipAll
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "/")
		if err := directories(w, name, made); err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: int64(len(data)), ModTime: info.ModTime(), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// directories writes the parents of name that are not in made yet.
func directories(w *tar.Writer, name string, made map[string]bool) error {
	for i, c := range name {
		if c != '/' || made[name[:i]] {
			continue
		}
		made[name[:i]] = true
		if err := w.WriteHeader(&tar.Header{Name: name[:i+1], Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
			return err
		}
	}
	return nil
}
