// SPDX-License-Identifier: Apache-2.0

// Package reference reads the names of images as people write them, such as
// busybox, reg.example:5000/team/app:1 or app@sha256:…, by the rules that
// registries and Docker have for them.
//
// It accepts what github.com/distribution/reference does, which compiles a
// dozen regular expressions in every program that links it, before main: a
// third of a command's life when it only asks the daemon something.
package reference

import (
	"errors"
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

const (
	hub       = "docker.io"
	oldHub    = "index.docker.io"
	official  = "library/" // where the hub keeps names of one part
	maxPath   = 255
	maxTag    = 128
	defaulted = "latest"
)

var errFormat = errors.New("invalid reference format")

// A Reference is the name of an image, with the host and the repository that a
// short name stands for.
type Reference struct {
	Domain string // host and port of the registry
	Path   string // repository there
	Tag    string // may be empty
	Digest digest.Digest
}

// Parse reads a name. One of 64 hexadecimal digits is refused: it would be
// taken for an identifier.
func Parse(s string) (Reference, error) {
	if isIdentifier(s) {
		return Reference{}, fmt.Errorf("invalid repository name (%s), it is an identifier of 64 hexadecimal digits", s)
	}
	domain, rest := split(s)
	name, _, _ := strings.Cut(rest, ":")
	if strings.ToLower(name) != name {
		return Reference{}, fmt.Errorf("%w: repository name (%s) must be lowercase", errFormat, name)
	}
	return parse(domain, rest)
}

// Check reports why s is neither the name of an image nor an identifier or
// digest of one.
func Check(s string) error {
	if isIdentifier(s) {
		return nil
	}
	if _, err := digest.Parse(s); err == nil {
		return nil
	}
	_, err := Parse(s)
	return err
}

// Name is the repository with its host.
func (r Reference) Name() string {
	if r.Domain == "" {
		return r.Path
	}
	return r.Domain + "/" + r.Path
}

// String is the whole reference.
func (r Reference) String() string { return r.suffixed(r.Name()) }

// Familiar is the reference in the short form that Parse completes.
func (r Reference) Familiar() string {
	if r.Domain != hub {
		return r.String()
	}
	name := r.Path
	if short, ok := strings.CutPrefix(name, official); ok && !strings.Contains(short, "/") {
		name = short
	}
	return r.suffixed(name)
}

// Single is r by its digest or else by its tag, which is latest if it has
// neither.
func (r Reference) Single() Reference {
	switch {
	case r.Digest != "":
		r.Tag = ""
	case r.Tag == "":
		r.Tag = defaulted
	}
	return r
}

func (r Reference) suffixed(name string) string {
	if r.Tag != "" {
		name += ":" + r.Tag
	}
	if r.Digest != "" {
		name += "@" + r.Digest.String()
	}
	return name
}

// split finds the host in a name. What cannot be one belongs to the path, and
// the host is the hub's.
func split(s string) (domain, rest string) {
	first, rest, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return hub, official + s
	case first == oldHub:
		domain = hub
	case first == "localhost" || strings.ContainsAny(first, ".:") || strings.ToLower(first) != first:
		domain = first
	default:
		domain, rest = hub, s
	}
	if domain == hub && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return domain, rest
}

func parse(domain, rest string) (r Reference, err error) {
	rest, sum, ok := strings.Cut(rest, "@")
	if ok {
		if r.Digest, err = digest.Parse(sum); err != nil {
			return Reference{}, err
		}
	}
	path, tag, ok := strings.Cut(rest, ":")
	if ok && !isTag(tag) {
		return Reference{}, errFormat
	}
	r.Domain, r.Path, r.Tag = domain, path, tag
	if !isDomain(domain) { // it may still be the first part of a path
		r.Domain, r.Path = "", domain+"/"+path
	}
	for part := range strings.SplitSeq(r.Path, "/") {
		if !isPart(part) {
			return Reference{}, errFormat
		}
	}
	if len(r.Path) > maxPath {
		return Reference{}, fmt.Errorf("repository name must not be more than %d characters", maxPath)
	}
	return r, nil
}

func isIdentifier(s string) bool {
	return len(s) == 64 && all(s, func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' })
}

// isDomain knows host names, addresses of either kind, and ports.
func isDomain(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		address, port, ok := strings.Cut(inner, "]")
		isHex := func(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' || c == ':' }
		return ok && address != "" && all(address, isHex) && (port == "" || port[0] == ':' && isNumber(port[1:]))
	}
	host, port, ok := strings.Cut(s, ":")
	if ok && !isNumber(port) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		inLabel := func(c byte) bool { return isAlphanumeric(c) || c == '-' }
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || !all(label, inLabel) {
			return false
		}
	}
	return true
}

// isPart knows a part of a path: runs of lower-case letters and digits, which a
// dot, one or two underscores or any number of dashes part.
func isPart(s string) bool {
	isRun := func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'z' }
	if s == "" || !isRun(s[0]) || !isRun(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		end := i
		for end < len(s) && !isRun(s[end]) {
			end++
		}
		switch between := s[i:end]; {
		case between == "", between == ".", between == "_", between == "__", strings.Trim(between, "-") == "":
		default:
			return false
		}
		for i = end; i < len(s) && isRun(s[i]); i++ {
		}
	}
	return true
}

func isTag(s string) bool {
	isWord := func(c byte) bool { return isAlphanumeric(c) || c == '_' }
	return s != "" && len(s) <= maxTag && isWord(s[0]) && all(s, func(c byte) bool { return isWord(c) || c == '.' || c == '-' })
}

func isNumber(s string) bool { return s != "" && all(s, isDigit) }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isAlphanumeric(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' }

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}
