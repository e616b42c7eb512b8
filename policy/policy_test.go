// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memory is a source in memory that answers whatever it is asked about.
type memory struct {
	docs map[digest.Digest][]byte
	list []ocispec.Descriptor
	err  error
}

func (m *memory) Signatures(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return m.list, m.err
}

func (m *memory) Read(_ context.Context, d ocispec.Descriptor) ([]byte, error) {
	if data, ok := m.docs[d.Digest]; ok {
		return data, nil
	}
	return nil, errdefs.ErrNotFound
}

func (m *memory) put(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	if m.docs == nil {
		m.docs = map[digest.Digest][]byte{}
	}
	m.docs[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// sign adds a manifest with one blob.
func (m *memory) sign(mediaType string, blob []byte, annotations map[string]string, subject *ocispec.Descriptor) {
	l := m.put(mediaType, blob)
	l.Annotations = annotations
	data, _ := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{l}, Subject: subject})
	m.list = append(m.list, m.put(ocispec.MediaTypeImageManifest, data))
}

var target = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("image"), Size: 5}

func simplePayload(d digest.Digest, kind, identity string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, identity, d, kind)
}

const cosignKind = "cosign container image signature"

func signWith(t *testing.T, k crypto.Signer, hash crypto.Hash, data []byte) []byte {
	t.Helper()
	sum := data
	if hash != 0 {
		h := hash.New()
		h.Write(data)
		sum = h.Sum(nil)
	}
	sig, err := k.Sign(rand.Reader, sum, hash)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func writePEM(t *testing.T, file, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func writeKey(t *testing.T, file string, k crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, file, "PUBLIC KEY", der)
}

func write(t *testing.T, file, text string) *File {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &File{Path: file}
}

// signedPolicy asks for a signature by one key.
func signedPolicy(t *testing.T, k crypto.PublicKey, more string) *File {
	t.Helper()
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "key.pub"), k)
	return write(t, filepath.Join(dir, "policy.toml"), "version = 1\ndefault = 'deny'\n[[rule]]\nmatch = '**'\naction = 'signed'\nkeys = ['key.pub']\n"+more)
}

func TestTheFirstRuleThatMatchesDecides(t *testing.T) {
	f := write(t, filepath.Join(t.TempDir(), "policy.toml"), `version = 1
default = "deny"
[[rule]]
match = "reg.example/team/secret"
action = "deny"
[[rule]]
match = "reg.example/team/*"
action = "allow"
[[rule]]
match = "docker.io/**"
action = "allow"
[[rule]]
match = "**/public"
action = "allow"
`)
	for name, line := range map[string]string{
		"reg.example/team/app:1":                        "",
		"reg.example/team/app@" + string(target.Digest): "",
		"reg.example/team/secret:1":                     "policy.toml:3",
		"reg.example/team/a/b:1":                        "default",
		"reg.example/team:1":                            "default",
		"docker.io/library/busybox:1":                   "",
		"busybox":                                       "",
		"docker.io.evil/x:1":                            "default",
		"other:5000/a/public:1":                         "",
		"public.example/x:1":                            "default",
		"reg.example/team/UPPER:1":                      "must be lowercase",
		"":                                              "default",
	} {
		_, err := f.Check(t.Context(), name, target, &memory{})
		if line == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if line != "" && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), line)) {
			t.Errorf("%s: got %v, want %s", name, err, line)
		}
	}
}

func TestSignaturesByKeysAreAccepted(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  crypto.Signer
		hash crypto.Hash
	}{
		"P-256": {ecKey(t, elliptic.P256()), crypto.SHA256}, "P-384": {ecKey(t, elliptic.P384()), crypto.SHA384},
		"P-521, as cosign does": {ecKey(t, elliptic.P521()), crypto.SHA256}, "Ed25519": {ed, 0}, "RSA": {rsaKey, crypto.SHA256},
	} {
		f := signedPolicy(t, c.key.Public(), "")
		tagged, bundled := &memory{}, &memory{}
		payload := simplePayload(target.Digest, cosignKind, "reg.example/x")
		tagged.sign(simpleSigning, payload, annotated(signWith(t, c.key, c.hash, payload)), nil)
		bundled.sign(bundleType, bundle(t, c.key, c.hash, "https://sigstore.dev/cosign/sign/v1", target.Digest), nil, &target)
		for _, from := range []*memory{tagged, bundled} {
			found, err := f.Check(t.Context(), "reg.example/x:1", target, from)
			if err != nil || len(found) != 2 || found[0].Desc.Digest != from.list[0].Digest {
				t.Errorf("%s: got %v, %v", name, found, err)
			}
		}
	}
}

func annotated(sig []byte) map[string]string {
	return map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)}
}

func bundle(t *testing.T, k crypto.Signer, hash crypto.Hash, predicate string, d digest.Digest) []byte {
	t.Helper()
	const kind = "application/vnd.in-toto+json"
	payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q}`, d.Encoded(), predicate)
	sig := signWith(t, k, hash, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload))
	data, _ := json.Marshal(map[string]any{"mediaType": bundleType, "dsseEnvelope": map[string]any{
		"payload": payload, "payloadType": kind, "signatures": []any{map[string]any{"sig": sig}},
	}})
	return data
}

func TestWhatDoesNotProveTheImageIsRefused(t *testing.T) {
	key, other := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	good := simplePayload(target.Digest, cosignKind, "reg.example/x")
	evil := simplePayload(digest.FromString("evil"), cosignKind, "reg.example/x")
	simple := func(k crypto.Signer, signed, sent []byte, subject *ocispec.Descriptor) func(*memory) {
		return func(m *memory) {
			m.sign(simpleSigning, sent, annotated(signWith(t, k, crypto.SHA256, signed)), subject)
		}
	}
	for name, c := range map[string]struct {
		add    func(*memory)
		policy string
		want   string
	}{
		"no signature":      {func(*memory) {}, "", "has no signature"},
		"another key":       {simple(other, good, good, nil), "", "none of the keys"},
		"another image":     {simple(key, evil, evil, nil), "", "it is for sha256:"},
		"a changed payload": {simple(key, evil, good, nil), "", "none of the keys"},
		"another subject":   {simple(key, good, good, &ocispec.Descriptor{Digest: digest.FromString("evil")}), "", "it is for sha256:"},
		"another identity":  {simple(key, good, good, nil), "identity = 'reg.example/y'", `not "reg.example/y"`},
		"another kind":      {func(m *memory) { p := simplePayload(target.Digest, "note", ""); simple(key, p, p, nil)(m) }, "", `payload is a "note"`},
		"no base64": {func(m *memory) {
			m.sign(simpleSigning, good, map[string]string{"dev.cosignproject.cosign/signature": "*"}, nil)
		}, "", "base64"},
		"an attestation": {func(m *memory) {
			m.sign(bundleType, bundle(t, key, crypto.SHA256, "https://slsa.dev/provenance/v1", target.Digest), nil, nil)
		}, "", "no signature"},
		"a bundle for another": {func(m *memory) {
			m.sign(bundleType, bundle(t, key, crypto.SHA256, "https://sigstore.dev/cosign/sign/v1", digest.FromString("evil")), nil, nil)
		}, "", "another image"},
		"an SBOM":               {func(m *memory) { m.sign("application/spdx+json", good, nil, nil) }, "", "none of cosign"},
		"a certificate":         {func(m *memory) { m.sign(jwsEnvelope, []byte("{}"), nil, nil) }, "", "the rule has none"},
		"a blob that is absent": {func(m *memory) { simple(key, good, good, nil)(m); delete(m.docs, digest.FromBytes(good)) }, "", "not found"},
		"a blob that is forged": {func(m *memory) { simple(key, good, good, nil)(m); m.docs[digest.FromBytes(good)] = evil }, "", "not what was read"},
		"a size below zero":     {func(m *memory) { simple(key, good, good, nil)(m); m.list[0].Size = -1 }, "", "the limit"},
		"too many": {func(m *memory) {
			simple(other, good, good, nil)(m)
			for range maxSignatures {
				m.list = append(m.list, m.list[0])
			}
			simple(key, good, good, nil)(m)
		}, "", "the limit of 64"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			c.add(m)
			_, err := signedPolicy(t, key.Public(), c.policy).Check(t.Context(), "reg.example/x:1", target, m)
			if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "policy.toml:3") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestASourceThatFailsIsNoPermission(t *testing.T) {
	f := signedPolicy(t, ecKey(t, elliptic.P256()).Public(), "")
	down := errors.New("registry is down")
	if _, err := f.Check(t.Context(), "reg.example/x:1", target, &memory{err: down}); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
	if _, err := f.Check(t.Context(), "reg.example/x:1", ocispec.Descriptor{}, &memory{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("an image that is not there: %v", err)
	}
	if _, err := (&Policy{}).Check(t.Context(), "x", target, &memory{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("zero policy: %v", err)
	}
}

func TestABrokenFileRefusesEverythingAndNamesTheLine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.toml")
	writePEM(t, filepath.Join(dir, "private"), "EC PRIVATE KEY", []byte{1})
	const head = "version = 1\ndefault = 'allow'\n"
	for text, want := range map[string]string{
		"":                                `policy.toml:1: default is ""`,
		"default = 'allow'":               "policy.toml:1: version = 1 is missing",
		"version = 2\ndefault = 'allow'":  "policy.toml:1: version is 2",
		"version = 1\ndefault = 'signed'": "policy.toml:1: default is",
		head + "rules = 1":                "policy.toml:3: unknown key rules",
		head + "\n[[rule]\n":              "policy.toml:4:",
		head + "[[rule]]\nmatch = '**'\naction = 'maybe'":                                        `policy.toml:3: rule for "**": action is "maybe"`,
		head + "[[rule]]\nmatch = 'a'\naction = 'allow'\n[[rule]]\nmatch = '['\naction = 'deny'": "policy.toml:6: rule",
		head + "[[rule]]\nmatch = ''\naction = 'deny'":                                           "no pattern",
		head + "[[rule]]\nmatch = 'h:5/a:1'\naction = 'deny'":                                    "policy.toml:3: rule for \"h:5/a:1\": match \"h:5/a:1\": a repository has neither tag nor digest",
		head + "[[rule]]\nmatch = 'h:5/a@sha256:*'\naction = 'deny'":                             "neither tag nor digest",
		head + "[[rule]]\nmatch = 'a'\naction = 'signed'":                                        "policy.toml:3: rule",
		head + "[[rule]]\nmatch = 'a'\naction = 'allow'\nkeys = ['x']":                           "what the action signed needs",
		head + "[[rule]]\nmatch = 'a'\naction = 'signed'\nkeys = ['absent']":                     "absent: no such file",
		head + "[[rule]]\nmatch = 'a'\naction = 'signed'\nkeys = ['private']":                    "unexpected EC PRIVATE KEY",
		head + "[[rule]]\nmatch = 'a'\naction = 'signed'\nkeys = ['policy.toml']":                "nothing in PEM",
		head + "[[rule]]\nmatch = 'a'\nmatsch = 'b'":                                             "policy.toml:5:",
	} {
		f := write(t, file, text)
		if _, err := f.Check(t.Context(), "docker.io/x/y:1", target, &memory{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestAFileIsReadAgainWhenItOrAKeyHasChanged(t *testing.T) {
	f := &File{Path: filepath.Join(t.TempDir(), "policy.toml")}
	check := func(want bool) {
		t.Helper()
		m, p := &memory{}, simplePayload(target.Digest, cosignKind, "")
		m.sign(simpleSigning, p, annotated(signWith(t, testKey(t), 0, p)), nil)
		if _, err := f.Check(t.Context(), "reg.example/x:1", target, m); (err == nil) != want {
			t.Errorf("got %v", err)
		}
	}
	check(true)
	f.Required = true
	f.stamp = ""
	check(false)
	write(t, f.Path, "version = 1\ndefault = 'deny'\n")
	check(false)
	write(t, f.Path, "version = 1\ndefault = 'allow'\n")
	check(true)
	write(t, f.Path, "broken")
	check(false)
	key := writeKey(t, filepath.Join(t.TempDir(), "k"), ecKey(t, elliptic.P256()).Public())
	write(t, f.Path, "version = 1\ndefault = 'deny'\n[[rule]]\nmatch = '**'\naction = 'signed'\nkeys = ['"+key+"']\n")
	check(false)
	writeKey(t, key, testKey(t).Public())
	check(true)
	os.Remove(key)
	check(false)
	if _, err := (*File)(nil).Check(t.Context(), "x", target, nil); err != nil {
		t.Errorf("no file: %v", err)
	}
}

// testKey is one key, always the same.
func testKey(t *testing.T) crypto.Signer {
	t.Helper()
	return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
}

func FuzzSignature(f *testing.F) {
	good := simplePayload(target.Digest, cosignKind, "")
	f.Add(simpleSigning, good, "MEUCIQ==")
	f.Add(bundleType, []byte(`{"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA=="}]}}`), "")
	f.Add(jwsEnvelope, []byte(`{"payload":"e30","protected":"e30","header":{"x5c":["AA=="]},"signature":"AA"}`), "")
	f.Add(coseEnvelope, []byte{0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40}, "")
	r := rule{keys: []crypto.PublicKey{make(ed25519.PublicKey, ed25519.PublicKeySize)}, roots: []*x509.Certificate{{}}}
	f.Fuzz(func(t *testing.T, mediaType string, blob []byte, sig string) {
		desc := ocispec.Descriptor{MediaType: mediaType, Annotations: map[string]string{"dev.cosignproject.cosign/signature": sig}}
		if r.verifyBlob(target, desc, blob) == nil {
			t.Errorf("accepted %s %q by %q", mediaType, blob, sig)
		}
	})
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte("version = 1\ndefault = 'deny'\n[[rule]]\nmatch = 'a/*'\naction = 'allow'\n"))
	file := filepath.Join(f.TempDir(), "policy.toml")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := Read(file); err == nil {
			p.Check(t.Context(), "reg.example/a/b:1", target, &memory{})
		}
	})
}
