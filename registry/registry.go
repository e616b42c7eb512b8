// SPDX-License-Identifier: Apache-2.0

// Package registry speaks the protocol of OCI registries: it resolves names,
// fetches blobs and pushes them.
//
// A reference is <host>/<repository>:<tag> or …@<digest>, used as it is: no
// default host, no default tag. The hosts that serve a reference are tried in
// order: mirrors of hosts.toml first, then the registry itself.
//
// What a registry sends is not trusted: who fetches verifies the digest.
package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"

	"slipway/internal/reference"
)

// Credential is one way to prove who we are. The zero value is anonymous.
type Credential struct {
	Username, Password string
	RefreshToken       string // for OAuth2
	Header             string // a whole Authorization header
}

// Options changes how a registry is reached; the zero value uses https and
// the system's certificates, and plain http on the loopback interface.
type Options struct {
	HostsDir   string // directory with <host>/hosts.toml
	PlainHTTP  bool
	SkipVerify bool   // of the server's certificate
	CA         string // file with certificates to trust
	Cert, Key  string // files of a client certificate
	// Credentials is asked when a host wants to know who we are.
	Credentials func(ctx context.Context, host string) (Credential, error)
	Headers     http.Header // added to every request to the hosts of the registry
	Trace       func(Hop)   // told of every exchange, maybe concurrently
	Log         Log

	pace  *pace // replaced in tests, as are the next two
	plan  *plan
	sleep func(context.Context, time.Duration) error
}

// Repository is one reference and the hosts that serve it.
type Repository struct {
	ref    string
	host   string // as in the reference
	name   string // path of the repository
	object string // tag or digest
	hosts  []*host
	pace   pace
	plan   plan
	sleep  func(context.Context, time.Duration) error
}

// New parses ref and finds its hosts. It sends nothing.
func New(ref string, opts Options) (*Repository, error) {
	if opts.sleep == nil {
		opts.sleep = sleep
	}
	r := &Repository{ref: ref, pace: defaultPace, plan: defaultPlan, sleep: opts.sleep}
	if opts.pace != nil {
		r.pace = *opts.pace
	}
	if opts.plan != nil {
		r.plan = *opts.plan
	}
	if err := r.parse(); err != nil {
		return nil, fmt.Errorf("image reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	var err error
	r.hosts, err = findHosts(r.host, opts)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return r, nil
}

func (r *Repository) parse() error {
	first, rest, ok := strings.Cut(r.ref, "/")
	if !ok || first != "localhost" && !strings.ContainsAny(first, ".:") {
		return fmt.Errorf("it must begin with the host of a registry, as in docker.io/library/busybox:latest")
	}
	named, err := reference.Parse(r.ref)
	if err != nil {
		return err
	}
	// What Parse completes, the names of the wire keep.
	r.host = first
	r.name = named.Path
	if !strings.HasPrefix(rest, r.name) { // docker.io/busybox
		r.name = strings.TrimPrefix(r.name, "library/")
	}
	switch {
	case named.Digest != "":
		r.object = named.Digest.String()
	case named.Tag != "":
		r.object = named.Tag
	default:
		return fmt.Errorf("a tag or digest is required, as in %s:latest", r.ref)
	}
	return nil
}

// CheckHost fails for what cannot be the host of a registry in a reference.
func CheckHost(host string) error {
	r := &Repository{ref: host + "/repository:tag"}
	bad := r.parse() != nil || r.host != host
	if _, p, err := net.SplitHostPort(host); err == nil {
		n, err := strconv.Atoi(p)
		bad = bad || err != nil || n < 1 || n > 65535
	}
	if bad {
		return fmt.Errorf("registry %q: not a host such as docker.io or localhost:5000: %w", host, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Host is the registry in the reference.
func (r *Repository) Host() string { return r.host }

// Name is the repository in the reference, without its host.
func (r *Repository) Name() string { return r.name }

// digest is that of a reference by digest, else empty.
func (r *Repository) digest() digest.Digest {
	if d, err := digest.Parse(r.object); err == nil {
		return d
	}
	return ""
}

// able lists the hosts that have a capability.
func (r *Repository) able(c capability) (list []*host) {
	for _, h := range r.hosts {
		if h.can&c != 0 {
			list = append(list, h)
		}
	}
	return list
}

// each tries the hosts that have a capability in turn until fn succeeds. The
// error is that of the last host, unless an earlier one was more telling than
// "not found".
func (r *Repository) each(ctx context.Context, c capability, fn func(h *host, last bool) error) error {
	hosts := r.able(c)
	if len(hosts) == 0 {
		return fmt.Errorf("%s: no host has the capability %s: %w", r.ref, c, errdefs.ErrNotFound)
	}
	var first error
	for i, h := range hosts {
		err := fn(h, i == len(hosts)-1)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if first == nil || errdefs.IsNotFound(first) {
			first = err
		}
	}
	return first
}
