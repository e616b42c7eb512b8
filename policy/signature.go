// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of the blobs that hold signatures, and of the artifacts.
const (
	simpleSigning  = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignArtifact = "application/vnd.dev.cosign.artifact.sig.v1+json"
	bundleType     = "application/vnd.dev.sigstore.bundle.v0.3+json"
	notation       = "application/vnd.cncf.notary.signature"
	jwsEnvelope    = "application/jose+json"
	coseEnvelope   = "application/cose"
)

// What a source is read for, at most.
const (
	maxSignatures = 64
	maxBlobs      = 64      // of one manifest
	maxBytes      = 4 << 20 // of one document
)

// MayHold reports whether a descriptor with an artifact type, or without one,
// may be that of a signature.
func MayHold(desc ocispec.Descriptor) bool {
	return slices.Contains([]string{"", cosignArtifact, bundleType, notation, ocispec.MediaTypeImageConfig}, desc.ArtifactType)
}

// IsSignature reports whether a manifest has blobs with signatures and none
// else.
func IsSignature(m ocispec.Manifest) bool {
	other := func(d ocispec.Descriptor) bool {
		return !slices.Contains([]string{simpleSigning, bundleType, jwsEnvelope, coseEnvelope}, d.MediaType)
	}
	return len(m.Layers) > 0 && !slices.ContainsFunc(m.Layers, other)
}

// verify looks for one signature that satisfies the rule. Signatures that do
// not are no failure: anybody may sign.
func (r rule) verify(ctx context.Context, desc ocispec.Descriptor, from Source) (Evidence, error) {
	list, err := from.Signatures(ctx, desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("signatures of %s: %w", desc.Digest, err)
	}
	var refused []error
	for i, d := range list {
		if i == maxSignatures {
			refused = append(refused, fmt.Errorf("more than the limit of %d signatures", maxSignatures))
			break
		}
		found, err := r.verifyManifest(ctx, desc, d, from)
		if err == nil {
			return found, nil
		}
		refused = append(refused, fmt.Errorf("signature %s: %w", d.Digest, err))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if len(refused) == 0 {
		refused = append(refused, fmt.Errorf("%s has no signature", desc.Digest))
	}
	return nil, fmt.Errorf("%w: %w", errors.Join(refused...), errdefs.ErrPermissionDenied)
}

// verifyManifest tries the blobs of one manifest.
func (r rule) verifyManifest(ctx context.Context, desc, sig ocispec.Descriptor, from Source) (Evidence, error) {
	data, err := readVerified(ctx, from, sig)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if m.Subject != nil && m.Subject.Digest != desc.Digest {
		return nil, fmt.Errorf("it is for %s", m.Subject.Digest)
	}
	if !IsSignature(m) || len(m.Layers) > maxBlobs {
		return nil, errors.New("it is none of cosign or Notation")
	}
	var refused []error
	for _, l := range m.Layers {
		blob, err := readVerified(ctx, from, l)
		if err == nil {
			err = r.verifyBlob(desc, l, blob)
		}
		if err == nil {
			return Evidence{{sig, data}, {l, blob}}, nil
		}
		refused = append(refused, err)
	}
	return nil, errors.Join(refused...)
}

func (r rule) verifyBlob(image, desc ocispec.Descriptor, blob []byte) error {
	switch desc.MediaType {
	case simpleSigning:
		return r.verifySimple(image, desc.Annotations["dev.cosignproject.cosign/signature"], blob)
	case bundleType:
		return r.verifyBundle(image, blob)
	}
	return r.verifyNotation(image, desc.MediaType, blob)
}

// readVerified reads a document and compares it with its digest.
func readVerified(ctx context.Context, from Source, desc ocispec.Descriptor) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	if desc.Size < 0 || desc.Size > maxBytes {
		return nil, fmt.Errorf("%s of %d bytes, where the limit is %d", desc.Digest, desc.Size, maxBytes)
	}
	data, err := from.Read(ctx, desc)
	if err != nil {
		return nil, err
	}
	if desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("%s is not what was read", desc.Digest)
	}
	return data, nil
}

// verifySimple checks a simple signing payload, the format of
// containers-signature(5), as cosign signs it: base64 of the signature beside
// it.
func (r rule) verifySimple(image ocispec.Descriptor, signature string, payload []byte) error {
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	if err := r.signedByKey(payload, sig); err != nil {
		return err
	}
	var doc struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest digest.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &doc); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	c := doc.Critical
	switch {
	case c.Type != "cosign container image signature":
		return fmt.Errorf("payload is a %q", c.Type)
	case c.Image.Digest != image.Digest:
		return fmt.Errorf("it is for %s", c.Image.Digest)
	case r.identity != "" && c.Identity.Reference != r.identity:
		return fmt.Errorf("it is for the identity %q, not %q", c.Identity.Reference, r.identity)
	}
	return nil
}

// verifyBundle checks a bundle of sigstore, with which cosign signs since
// version 3: an in-toto statement in an envelope of DSSE. Its identity is its
// digest, so that a rule that asks for another one refuses it.
func (r rule) verifyBundle(image ocispec.Descriptor, blob []byte) error {
	var doc struct {
		Envelope struct {
			Payload     []byte `json:"payload"`
			PayloadType string `json:"payloadType"`
			Signatures  []struct {
				Sig []byte `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(blob, &doc); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	e := doc.Envelope
	if len(e.Signatures) != 1 || e.PayloadType != "application/vnd.in-toto+json" || r.identity != "" {
		return fmt.Errorf("bundle: %d signatures of %q", len(e.Signatures), e.PayloadType)
	}
	// The pre-authentication encoding of DSSE version 1.
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload)
	if err := r.signedByKey(signed, e.Signatures[0].Sig); err != nil {
		return err
	}
	var statement struct {
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(e.Payload, &statement); err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	if statement.PredicateType != "https://sigstore.dev/cosign/sign/v1" {
		return fmt.Errorf("it states %q, which is no signature", statement.PredicateType)
	}
	for _, s := range statement.Subject {
		if s.Digest[image.Digest.Algorithm().String()] == image.Digest.Encoded() {
			return nil
		}
	}
	return errors.New("it is for another image")
}

// signedByKey checks a signature against the keys of the rule.
func (r rule) signedByKey(data, sig []byte) error {
	for _, k := range r.keys {
		if signedBy(k, data, sig) {
			return nil
		}
	}
	return errors.New("it is by none of the keys")
}

// signedBy accepts what cosign makes: SHA-256 whatever the curve or size, and
// the hash that suits larger curves.
func signedBy(key crypto.PublicKey, data, sig []byte) bool {
	sum := func(h crypto.Hash) []byte {
		w := h.New()
		w.Write(data)
		return w.Sum(nil)
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum(crypto.SHA256), sig) ||
			k.Params().BitSize == 384 && ecdsa.VerifyASN1(k, sum(crypto.SHA384), sig) ||
			k.Params().BitSize == 521 && ecdsa.VerifyASN1(k, sum(crypto.SHA512), sig)
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize && ed25519.Verify(k, data, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum(crypto.SHA256), sig) == nil
	}
	return false
}
