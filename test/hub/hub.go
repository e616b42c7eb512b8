// SPDX-License-Identifier: Apache-2.0

// Package hub is a registry for tests, in the process of the test and with
// faults on demand.
//
// It keeps everything in memory and speaks the distribution protocol: tags,
// digests, ranges, uploads in chunks, mounts from other repositories,
// referrers, Basic and token authentication. A fault applies to the requests
// that it matches, as often as it says.
package hub

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

// Options changes a hub; the zero value is a plain, open registry.
type Options struct {
	TLS      *tls.Config // serves https; the certificate is a self-signed one if it has none
	User     string      // who may do anything; nobody else may
	Password string
	Token    bool // hand out bearer tokens for the password, instead of Basic
	// CDN redirects reads of blobs to another host, as hubs with a storage
	// provider do.
	CDN         bool
	NoRanges    bool // ignore Range headers
	NoReferrers bool // lack the referrers API
}

// Hub is a running registry.
type Hub struct {
	Host string // address, as in a reference
	opts Options
	main *httptest.Server
	cdn  *httptest.Server // nil without CDN
	sent atomic.Int64     // bytes of blobs

	mu       sync.Mutex
	blobs    map[digest.Digest][]byte
	repos    map[string]*repo
	uploads  map[string]*upload
	faults   []*Fault
	requests []Request
	number   int // of uploads and tokens so far
	tokens   map[string]string
}

// repo is one repository.
type repo struct {
	blobs     map[digest.Digest]bool
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

type manifest struct {
	mediaType string
	data      []byte
}

// Request is one that a hub has got.
type Request struct {
	Method, Path, Query, Range string
	Authorization              string
	CDN                        bool // it went to the other host
	Header                     http.Header
}

// Start runs a hub until Close.
func Start(opts Options) *Hub {
	h := &Hub{
		opts: opts, blobs: map[digest.Digest][]byte{}, repos: map[string]*repo{}, uploads: map[string]*upload{}, tokens: map[string]string{},
	}
	h.main = h.listen(false)
	h.Host = strings.TrimPrefix(strings.TrimPrefix(h.main.URL, "https://"), "http://")
	if opts.CDN {
		h.cdn = h.listen(true)
	}
	return h
}

// New runs a hub until the test ends.
func New(t testing.TB, opts Options) *Hub {
	t.Helper()
	h := Start(opts)
	t.Cleanup(h.Close)
	return h
}

func (h *Hub) listen(cdn bool) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, cdn) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it
	if h.opts.TLS == nil {
		s.Start()
		return s
	}
	s.TLS = h.opts.TLS.Clone()
	s.StartTLS()
	return s
}

// Close stops the hub and cuts what is under way.
func (h *Hub) Close() {
	for _, s := range []*httptest.Server{h.main, h.cdn} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
}

// Certificate is that of the server, in PEM, for clients to trust.
func (h *Hub) Certificate() []byte { return encodeCertificate(h.main.Certificate()) }

// Sent is the number of bytes of blobs that were sent.
func (h *Hub) Sent() int64 { return h.sent.Load() }

// Requests lists what was asked for since the start or the last Forget.
func (h *Hub) Requests() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Request(nil), h.requests...)
}

// Forget empties the list of requests and the count of bytes.
func (h *Hub) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = nil
	h.sent.Store(0)
}

// Ref is a reference to a name in the hub.
func (h *Hub) Ref(repo, object string) string {
	if strings.Contains(object, ":") {
		return fmt.Sprintf("%s/%s@%s", h.Host, repo, object)
	}
	return fmt.Sprintf("%s/%s:%s", h.Host, repo, object)
}

// Has reports whether a repository holds a blob or manifest.
func (h *Hub) Has(repo string, d digest.Digest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repos[repo]
	return r != nil && (r.blobs[d] || r.manifests[d].data != nil)
}

// Content is all that the hub holds.
func (h *Hub) Content() map[digest.Digest][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := maps.Clone(h.blobs)
	for _, r := range h.repos {
		for d, m := range r.manifests {
			all[d] = m.data
		}
	}
	return all
}

// repository is called with mu held.
func (h *Hub) repository(name string) *repo {
	r := h.repos[name]
	if r == nil {
		r = &repo{map[digest.Digest]bool{}, map[digest.Digest]manifest{}, map[string]digest.Digest{}}
		h.repos[name] = r
	}
	return r
}
