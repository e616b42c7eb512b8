// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/policy"
	"slipway/test/hub"
)

var signingKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// signedOnly takes what signingKey has signed, and what is below /free/.
func signedOnly(t *testing.T) *policy.File {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(signingKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := "version = 1\ndefault = 'deny'\n[[rule]]\nmatch = '*/free/**'\naction = 'allow'\n[[rule]]\nmatch = '**'\naction = 'signed'\nkeys = ['key.pub']\n"
	for name, data := range map[string][]byte{"key.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "policy.toml": []byte(text)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &policy.File{Path: filepath.Join(dir, "policy.toml"), Required: true}
}

// signImage puts a signature of an image into a repository, under the tag of
// cosign or as a referrer.
func signImage(h *hub.Hub, repo string, img ocispec.Descriptor, tagged bool) ocispec.Descriptor {
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"}}`, img.Digest)
	blob := h.Blob(repo, "application/vnd.dev.cosign.simplesigning.v1+json", payload)
	blob.Annotations = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(ed25519.Sign(signingKey, payload))}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: h.Blob(repo, ocispec.MediaTypeImageConfig, []byte(`{"rootfs":{}}`)), Layers: []ocispec.Descriptor{blob},
	}
	tag := ""
	if tagged {
		tag = "sha256-" + img.Digest.Encoded() + ".sig"
	} else {
		m.Subject, m.ArtifactType = &ocispec.Descriptor{MediaType: img.MediaType, Digest: img.Digest, Size: img.Size}, "application/vnd.dev.cosign.artifact.sig.v1+json"
	}
	return h.Manifest(repo, tag, ocispec.MediaTypeImageManifest, m)
}

func TestAPolicyJudgesPullsAndRunsAlike(t *testing.T) {
	h := hub.New(t, hub.Options{})
	layer := hub.Tar("a/", "a/f=x")
	signImage(h, "tagged", h.Image("tagged", "t", "amd64", layer), true)
	signImage(h, "referred", h.Image("referred", "t", "amd64", layer), false)
	signImage(h, "other", h.Image("unsigned", "t", "amd64", layer), true)
	h.Image("free/x", "t", "amd64", layer)
	w := newWorld(t)
	w.Policy = signedOnly(t)
	guard := Guard{DB: w.DB, Policy: w.Policy}
	for repo, want := range map[string]bool{"tagged": true, "referred": true, "free/x": true, "unsigned": false} {
		ref := h.Ref(repo, "t")
		err := w.Pull(t.Context(), scope, ref, pullOpts(ref, ""))
		if want != (err == nil) || !want && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: pull: %v", repo, err)
		}
		if _, err := w.DB.GC(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := guard.Admit(t.Context(), scope.Namespace, ref); want != (err == nil) || !want && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: run: %v", repo, err)
		}
	}
	if strings.Contains(w.names(t), "unsigned") {
		t.Error("the refused image is there")
	}
	for _, name := range []string{"", "reg.example/absent:1"} {
		if err := guard.Admit(t.Context(), scope.Namespace, name); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := os.WriteFile(w.Policy.Path, []byte("version = 1\ndefault = 'deny'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := guard.Admit(t.Context(), scope.Namespace, h.Ref("tagged", "t")); !errdefs.IsPermissionDenied(err) {
		t.Errorf("after the policy has changed: %v", err)
	}
	if err := (Guard{DB: w.DB}).Admit(t.Context(), scope.Namespace, ""); err != nil {
		t.Errorf("without a policy: %v", err)
	}
}

// layout is an archive of images that were put into a hub, and further blobs.
func layout(t *testing.T, list []ocispec.Descriptor, blobs map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list})
	if err != nil {
		t.Fatal(err)
	}
	blobs["oci-layout"], blobs["index.json"] = []byte(`{"imageLayoutVersion":"1.0.0"}`), index
	for name, data := range blobs {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	w.Close()
	return buf.Bytes()
}

func TestAPolicyJudgesImports(t *testing.T) {
	const repo = "x"
	h := hub.New(t, hub.Options{})
	img := h.Image(repo, "t", "amd64", hub.Tar("a/", "a/f=x"))
	sig := signImage(h, repo, img, true)
	blobs := func() map[string][]byte {
		m := map[string][]byte{}
		for d, data := range h.Content() {
			m["blobs/sha256/"+d.Encoded()] = data
		}
		return m
	}
	img.Annotations = map[string]string{"io.containerd.image.name": "reg.example/x:t"}
	for name, list := range map[string][]ocispec.Descriptor{"signed": {img, sig}, "unsigned": {img}} {
		w := newWorld(t)
		w.Policy = signedOnly(t)
		err := w.Import(t.Context(), scope, bytes.NewReader(layout(t, list, blobs())), importOpts(Reference{IsPrefix: true, AllowOverwrite: true}), silent)
		if _, gcErr := w.DB.GC(t.Context()); gcErr != nil {
			t.Fatal(gcErr)
		}
		admitted := Guard{DB: w.DB, Policy: w.Policy}.Admit(t.Context(), scope.Namespace, "reg.example/x:t")
		if name == "signed" && (err != nil || admitted != nil) {
			t.Errorf("signed: import %v, run %v", err, admitted)
		}
		if name == "unsigned" && (!errdefs.IsPermissionDenied(err) || !errdefs.IsPermissionDenied(admitted)) {
			t.Errorf("unsigned: import %v, run %v", err, admitted)
		}
		if names := w.names(t); name == "unsigned" && names != "" {
			t.Errorf("the refused import left %s", names)
		}
	}
}
