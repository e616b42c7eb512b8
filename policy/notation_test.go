// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// authority is a root and a certificate for signing.
type authority struct {
	root, leaf *x509.Certificate
	key        *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, until time.Time) authority {
	t.Helper()
	rootKey, key := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	name := func(cn string) pkix.Name {
		return pkix.Name{CommonName: cn, Organization: []string{"Acme"}, Country: []string{"DE"}, Province: []string{"B"}}
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: name("root"), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: name("release"), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	make := func(c, parent *x509.Certificate, k *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	a := authority{root: make(root, root, rootKey), key: key}
	a.leaf = make(leaf, a.root, key)
	return a
}

// sign makes an envelope; change edits the request.
func (a authority) sign(t *testing.T, mediaType string, d digest.Digest, change func(*signature.SignRequest)) []byte {
	t.Helper()
	signer, err := signature.NewLocalSigner([]*x509.Certificate{a.leaf, a.root}, a.key)
	if err != nil {
		t.Fatal(err)
	}
	req := &signature.SignRequest{
		Payload: signature.Payload{
			ContentType: "application/vnd.cncf.notary.payload.v1+json",
			Content:     fmt.Appendf(nil, `{"targetArtifact":{"mediaType":%q,"digest":%q,"size":%d}}`, target.MediaType, d, target.Size),
		},
		Signer: signer, SigningTime: time.Now().Add(-90 * time.Minute), SigningScheme: signature.SigningSchemeX509,
	}
	change(req)
	e := jws.NewEnvelope()
	if mediaType == cose.MediaTypeEnvelope {
		e = cose.NewEnvelope()
	}
	data, err := e.Sign(req)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSignaturesOfNotationNeedATrustedCertificateThatIsValid(t *testing.T) {
	plain := func(*signature.SignRequest) {}
	good, stranger := newAuthority(t, time.Now().Add(time.Hour)), newAuthority(t, time.Now().Add(time.Hour))
	old := newAuthority(t, time.Now().Add(-time.Hour))
	const subjects = "subjects = ['CN=release,O=Acme,ST=B,C=DE']\n"
	for name, c := range map[string]struct {
		by     authority
		root   *x509.Certificate
		d      digest.Digest
		change func(*signature.SignRequest)
		more   string
		want   string // empty if it is accepted
	}{
		"trusted":         {good, good.root, target.Digest, plain, "", ""},
		"the subject":     {good, good.root, target.Digest, plain, subjects, ""},
		"another subject": {good, good.root, target.Digest, plain, "subjects = ['CN=x']\n", `by "CN=release,O=Acme,ST=B,C=DE"`},
		"a stranger":      {stranger, good.root, target.Digest, plain, "", "any trusted certificate"},
		"another image":   {good, good.root, digest.FromString("evil"), plain, "", "it is for sha256:"},
		"an old one":      {old, old.root, target.Digest, plain, "", "is valid from"},
		"an expired one":  {good, good.root, target.Digest, func(r *signature.SignRequest) { r.Expiry = time.Now().Add(-time.Hour) }, "", "it expired"},
		"another payload": {good, good.root, target.Digest, func(r *signature.SignRequest) { r.Payload.ContentType = "application/json" }, "", "payload is of type"},
		"a critical plugin": {good, good.root, target.Digest, func(r *signature.SignRequest) {
			r.ExtendedSignedAttributes = []signature.Attribute{{Key: "io.cncf.notary.verificationPlugin", Critical: true, Value: "x"}}
		}, "", "critical attribute"},
	} {
		for _, mediaType := range []string{jws.MediaTypeEnvelope, cose.MediaTypeEnvelope} {
			t.Run(name+" "+mediaType, func(t *testing.T) {
				dir := t.TempDir()
				writePEM(t, filepath.Join(dir, "ca.crt"), "CERTIFICATE", c.root.Raw)
				f := write(t, filepath.Join(dir, "policy.toml"), "version = 1\ndefault = 'deny'\n[[rule]]\nmatch = '**'\naction = 'signed'\ncertificates = ['ca.crt']\n"+c.more)
				m := &memory{}
				m.sign(mediaType, c.by.sign(t, mediaType, c.d, c.change), nil, &target)
				_, err := f.Check(t.Context(), "reg.example/x:1", target, m)
				if c.want == "" && err != nil || c.want != "" && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			})
		}
	}
}

func TestAChangedEnvelopeIsRefused(t *testing.T) {
	a := newAuthority(t, time.Now().Add(time.Hour))
	r := rule{roots: []*x509.Certificate{a.root}}
	for _, mediaType := range []string{jws.MediaTypeEnvelope, cose.MediaTypeEnvelope} {
		blob := a.sign(t, mediaType, target.Digest, func(*signature.SignRequest) {})
		if err := r.verifyNotation(target, mediaType, blob); err != nil {
			t.Fatal(err)
		}
		for i := range blob {
			broken := append([]byte(nil), blob...)
			broken[i] ^= 0x20
			other := ocispec.Descriptor{Digest: digest.FromString("evil"), Size: target.Size}
			if r.verifyNotation(other, mediaType, broken) == nil {
				t.Errorf("%s: byte %d makes it one for another image", mediaType, i)
			}
		}
	}
}
