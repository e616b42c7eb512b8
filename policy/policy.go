// SPDX-License-Identifier: Apache-2.0

// Package policy says which images a host takes: those of a repository are
// allowed, denied, or need a signature.
//
// A rule is for the repositories that its pattern matches; the first one that
// matches decides, and without one the default does. A signature is evidence
// for one digest; a source is where evidence is looked for, such as a registry
// or the content store. Whatever cannot be decided is refused.
//
// A policy guards against images, not against clients: who may connect to the
// daemon can build a root file system by hand.
package policy

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/reference"
)

// Policy is what a file says. The zero value refuses everything.
type Policy struct {
	file   string
	action action // without a rule that matches
	rules  []rule
	reads  []string // files with keys and certificates
}

type action uint8

const (
	deny action = iota
	allow
	signed
)

var actions = map[string]action{"deny": deny, "allow": allow, "signed": signed}

// rule is one [[rule]] of the file.
type rule struct {
	line     int
	match    []string // the pattern's components
	action   action
	keys     []crypto.PublicKey
	identity string // what a signature by a key must say, if not empty
	roots    []*x509.Certificate
	subjects []string // of the signing certificate, any if empty
}

// Document is a manifest or a blob that belongs to a signature.
type Document struct {
	Desc ocispec.Descriptor
	Data []byte
}

// Evidence is the signature by which an image was accepted: its manifest, and
// then the one blob of it that counts. It is empty if none was needed.
type Evidence []Document

// Source is where signatures are looked for. Neither what it lists nor what it
// reads is trusted.
type Source interface {
	// Signatures lists the manifests that may hold signatures of subject.
	Signatures(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error)
	// Read gets a manifest or blob.
	Read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
}

// Check fails with errdefs.ErrPermissionDenied if the policy refuses the image
// desc under a name, and in another way if that cannot be found out. An empty
// name stands for no image at all: the default decides, and only if it allows
// is there nothing to show.
func (p *Policy) Check(ctx context.Context, name string, desc ocispec.Descriptor, from Source) (Evidence, error) {
	r, err := p.ruleFor(name)
	if err != nil {
		return nil, fmt.Errorf("image %q: policy %s: %w: %w", name, p.file, err, errdefs.ErrPermissionDenied)
	}
	var found Evidence
	switch {
	case r.action == allow:
		return nil, nil
	case r.action == deny:
		err = fmt.Errorf("the image is denied: %w", errdefs.ErrPermissionDenied)
	case desc.Digest == "":
		err = fmt.Errorf("a signature is required, but the image is not in the store: %w", errdefs.ErrPermissionDenied)
	default:
		found, err = r.verify(ctx, desc, from)
	}
	if err != nil {
		return nil, fmt.Errorf("image %q: policy %s: %w", name, p.where(r), err)
	}
	return found, nil
}

func (p *Policy) where(r rule) string {
	if r.line == 0 {
		return p.file + ": default"
	}
	return fmt.Sprintf("%s:%d", p.file, r.line)
}

// ruleFor finds the rule for a name. A name that is no reference could slip
// past the rule that is meant for it.
func (p *Policy) ruleFor(name string) (rule, error) {
	if name == "" || len(p.rules) == 0 {
		return rule{action: p.action}, nil
	}
	named, err := reference.Parse(name)
	if err != nil {
		return rule{}, err
	}
	parts := strings.Split(named.Name(), "/")
	for _, r := range p.rules {
		if matches(r.match, parts) {
			return r, nil
		}
	}
	return rule{action: p.action}, nil
}

// anyDepth is the component of a pattern that stands for any number of them.
const anyDepth = "**"

// matches compares component by component, as path.Match does.
func matches(pattern, parts []string) bool {
	for i, want := range pattern {
		if want == anyDepth {
			for skip := i; skip <= len(parts); skip++ {
				if matches(pattern[i+1:], parts[skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(parts) {
			return false
		}
		if ok, err := path.Match(want, parts[i]); !ok || err != nil {
			return false
		}
	}
	return len(parts) == len(pattern)
}
