// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// File is the policy of a file, which is read again when it, or a key that it
// names, has changed. Nil allows everything. A file that is broken refuses
// everything.
type File struct {
	Path     string
	Required bool // a file that is missing refuses everything, instead of nothing

	mu     sync.Mutex
	stamp  string
	policy *Policy // nil if there is no file
}

// Check is Policy.Check by what the file says now.
func (f *File) Check(ctx context.Context, name string, desc ocispec.Descriptor, from Source) (Evidence, error) {
	if f == nil {
		return nil, nil
	}
	p, err := f.load()
	if err != nil {
		return nil, fmt.Errorf("image %q: policy %w", name, err)
	}
	if p == nil {
		return nil, nil
	}
	return p.Check(ctx, name, desc, from)
}

// Load reports what is wrong with the file.
func (f *File) Load() error {
	_, err := f.load()
	return err
}

func (f *File) load() (*Policy, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stamp != "" && f.stamp == f.look(f.policy) {
		return f.policy, nil
	}
	f.stamp = ""
	p, err := Read(f.Path)
	if errors.Is(err, fs.ErrNotExist) && p == nil && !f.Required {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	f.policy, f.stamp = p, f.look(p)
	return p, nil
}

// look tells versions of the files apart.
func (f *File) look(p *Policy) string {
	files := []string{f.Path}
	if p != nil {
		files = append(files, p.reads...)
	}
	var b strings.Builder
	for _, name := range files {
		fi, err := os.Stat(name)
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
			continue
		}
		fmt.Fprintf(&b, "%d %d %+v\n", fi.ModTime().UnixNano(), fi.Size(), fi.Sys())
	}
	return b.String()
}

// document is the file.
type document struct {
	Version int     `toml:"version"`
	Default string  `toml:"default"`
	Rules   []entry `toml:"rule"`
}

type entry struct {
	Match        string   `toml:"match"`
	Action       string   `toml:"action"`
	Keys         []string `toml:"keys"`
	Identity     string   `toml:"identity"`
	Certificates []string `toml:"certificates"`
	Subjects     []string `toml:"subjects"`
}

// Read reads a policy. Its error names the line. Without a file there is
// neither a policy nor a line.
func Read(file string) (*Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc document
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		line, err := place(err)
		return &Policy{}, fmt.Errorf("%s:%d: %w: %w", file, line, err, errdefs.ErrInvalidArgument)
	}
	p := &Policy{file: file}
	var ok bool
	if p.action, ok = actions[doc.Default]; !ok || p.action == signed {
		return p, fmt.Errorf("%s:1: default is %q, not allow or deny: %w", file, doc.Default, errdefs.ErrInvalidArgument)
	}
	if doc.Version == 0 {
		return p, fmt.Errorf("%s:1: version = 1 is missing: %w", file, errdefs.ErrInvalidArgument)
	}
	if doc.Version != 1 {
		return p, fmt.Errorf("%s:1: version is %d, not 1: %w", file, doc.Version, errdefs.ErrInvalidArgument)
	}
	lines := ruleLines(data)
	for i, e := range doc.Rules {
		r, reads, err := e.rule(filepath.Dir(file))
		if i < len(lines) {
			r.line = lines[i]
		}
		if err != nil {
			return p, fmt.Errorf("%s:%d: rule for %q: %w: %w", file, r.line, e.Match, err, errdefs.ErrInvalidArgument)
		}
		p.rules, p.reads = append(p.rules, r), append(p.reads, reads...)
	}
	return p, nil
}

// place gives the line of an error, and the error without what is said of it.
func place(err error) (line int, _ error) {
	var at *toml.DecodeError
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		at = &unknown.Errors[0]
		err = fmt.Errorf("unknown key %s", strings.Join(at.Key(), "."))
	}
	if at == nil && !errors.As(err, &at) {
		return 1, err
	}
	line, _ = at.Position()
	return line, err
}

// ruleLines lists where the rules begin.
func ruleLines(data []byte) (lines []int) {
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.ArrayTable {
			continue
		}
		for it := e.Key(); it.Next(); {
			lines = append(lines, p.Shape(it.Node().Raw).Start.Line)
		}
	}
	return lines
}

// rule checks an entry and reads its keys and certificates. Their paths start
// from dir.
func (e entry) rule(dir string) (r rule, reads []string, err error) {
	r = rule{match: strings.Split(e.Match, "/"), identity: e.Identity, subjects: e.Subjects}
	for i, part := range r.match {
		if strings.Contains(part, "@") || i > 0 && strings.Contains(part, ":") {
			return r, nil, fmt.Errorf("match %q: a repository has neither tag nor digest", e.Match)
		}
		if _, err := path.Match(part, ""); err != nil || part == "" {
			return r, nil, fmt.Errorf("match %q is no pattern of repositories", e.Match)
		}
	}
	var ok bool
	if r.action, ok = actions[e.Action]; !ok {
		return r, nil, fmt.Errorf("action is %q, not allow, deny or signed", e.Action)
	}
	needs := len(e.Keys) + len(e.Certificates)
	if r.action == signed && needs == 0 || r.action != signed && needs+len(e.Subjects)+len(e.Identity) > 0 {
		return r, nil, errors.New("keys or certificates are what the action signed needs, and no other")
	}
	for _, name := range slices.Concat(e.Keys, e.Certificates) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if err := r.trust(name, len(reads) < len(e.Keys)); err != nil {
			return r, nil, err
		}
		reads = append(reads, name)
	}
	return r, reads, nil
}

// trust adds the public keys, or the certificates, of a PEM file.
func (r *rule) trust(file string, keys bool) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	before := len(r.keys) + len(r.roots)
	for b, rest := pem.Decode(data); b != nil; b, rest = pem.Decode(rest) {
		switch {
		case keys && b.Type == "PUBLIC KEY":
			k, err := parseKey(b.Bytes)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			r.keys = append(r.keys, k)
		case !keys && b.Type == "CERTIFICATE":
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			r.roots = append(r.roots, c)
		default:
			return fmt.Errorf("%s: unexpected %s", file, b.Type)
		}
	}
	if len(r.keys)+len(r.roots) == before {
		return fmt.Errorf("%s: nothing in PEM", file)
	}
	return nil
}

func parseKey(der []byte) (crypto.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	switch k.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey, *rsa.PublicKey:
		return k, nil
	}
	return nil, fmt.Errorf("keys of type %T are not known", k)
}
