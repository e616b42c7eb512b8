// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestVerifiersMustAllAllowAnImage(t *testing.T) {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
	allow, deny := "exit 0", "echo unsigned; exit 3"
	for _, c := range []struct {
		name     string
		programs map[string]string
		max      int
		err      string
	}{
		{"none", nil, 10, ""},
		{"one allows", map[string]string{"a": allow}, 10, ""},
		{"the last denies", map[string]string{"a": allow, "b": deny}, 10, "blocked pull of img with digest " + desc.Digest.String() + " for reason: verifier b rejected image (exit code 3): unsigned"},
		{"the others are skipped", map[string]string{"a": allow, "b": deny}, 1, ""},
		{"all are asked", map[string]string{"a": allow, "b": deny}, -1, "verifier b rejected"},
		{"it gets the image", map[string]string{"a": `[ "$*" = "-name img -digest ` + desc.Digest.String() + ` -stdin-media-type application/vnd.oci.descriptor.v1+json" ] && grep -q '"size":1'`}, 10, ""},
		{"it talks much", map[string]string{"a": "head -c 100000 /dev/zero | tr '\\0' x; exit 1"}, 10, "xxx"},
		{"it is killed", map[string]string{"a": "kill -9 $$"}, 10, "signal: killed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &Verifier{Dir: t.TempDir(), Max: c.max, Timeout: time.Minute}
			for name, text := range c.programs {
				if err := os.WriteFile(filepath.Join(v.Dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			err := v.verify(t.Context(), "img", desc)
			if c.err == "" && err == nil {
				return
			}
			if err == nil || c.err == "" || !strings.Contains(err.Error(), c.err) || len(err.Error()) > maxReason+1000 {
				t.Errorf("got %.200v, want %q", err, c.err)
			}
			if denied := strings.Contains(c.err, "rejected"); denied && !errdefs.IsPermissionDenied(err) {
				t.Errorf("kind of %v", err)
			}
		})
	}
}

func TestAVerifierThatHangsBlocksThePull(t *testing.T) {
	v := &Verifier{Dir: t.TempDir(), Max: 10, Timeout: 50 * time.Millisecond}
	if err := os.WriteFile(filepath.Join(v.Dir, "a"), []byte("#!/bin/sh\nexec tail -f /dev/null\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := v.verify(t.Context(), "img", ocispec.Descriptor{}); err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("got %v", err)
	}
	v.Dir = filepath.Join(v.Dir, "absent")
	if err := v.verify(t.Context(), "img", ocispec.Descriptor{}); err != nil {
		t.Errorf("no directory: %v", err)
	}
	if err := (*Verifier)(nil).verify(t.Context(), "img", ocispec.Descriptor{}); err != nil {
		t.Errorf("no verifier: %v", err)
	}
}
