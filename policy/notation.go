// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// verifyNotation checks an envelope of Notation (section "Notary Project OCI
// Signature" of its specifications). Its certificates must be valid now and
// lead to a trusted one. Neither their revocation nor time stamps are looked
// up: that would need the network at each run.
func (r rule) verifyNotation(image ocispec.Descriptor, mediaType string, blob []byte) error {
	if len(r.roots) == 0 {
		return errors.New("it is by a certificate, and the rule has none")
	}
	parse := jws.ParseEnvelope
	if mediaType == coseEnvelope {
		parse = cose.ParseEnvelope
	}
	e, err := parse(blob)
	if err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	said, err := e.Verify()
	if err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	if err := r.trusts(&said.SignerInfo, time.Now()); err != nil {
		return err
	}
	if said.Payload.ContentType != "application/vnd.cncf.notary.payload.v1+json" {
		return fmt.Errorf("payload is of type %q", said.Payload.ContentType)
	}
	var payload struct {
		Target ocispec.Descriptor `json:"targetArtifact"`
	}
	if err := json.Unmarshal(said.Payload.Content, &payload); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if payload.Target.Digest != image.Digest || payload.Target.Size != image.Size {
		return fmt.Errorf("it is for %s of %d bytes", payload.Target.Digest, payload.Target.Size)
	}
	return nil
}

// trusts checks who signed, and until when that counts.
func (r rule) trusts(s *signature.SignerInfo, now time.Time) error {
	if _, err := signature.VerifyAuthenticity(s, r.roots); err != nil {
		return err
	}
	for _, c := range s.CertificateChain {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return fmt.Errorf("certificate %s is valid from %s to %s", c.Subject, c.NotBefore, c.NotAfter)
		}
	}
	if until := s.SignedAttributes.Expiry; !until.IsZero() && now.After(until) {
		return fmt.Errorf("it expired at %s", until)
	}
	for _, a := range s.SignedAttributes.ExtendedAttributes {
		if a.Critical {
			return fmt.Errorf("critical attribute %v is not known", a.Key)
		}
	}
	if subject := s.CertificateChain[0].Subject.String(); len(r.subjects) > 0 && !slices.Contains(r.subjects, subject) {
		return fmt.Errorf("it is by %q, who is none of the subjects", subject)
	}
	return nil
}
