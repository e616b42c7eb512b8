// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"slipway/internal/version"
)

// host is one server of a registry.
type host struct {
	site
	registry string // whose mirror this is
	extra    http.Header
	auth     auth.Client
	sleep    func(context.Context, time.Duration) error

	mu            sync.Mutex
	authorization string // a header to send instead of negotiating
}

// attempts is how often a request is sent before its failure counts.
const attempts = 5

// busyAttempts is how often a request is sent to a server that asks to come
// back later.
const busyAttempts = 7

func newHost(s site, registry string, opts Options) (*host, error) {
	tlsConfig, err := s.tls.config()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", s.address, err)
	}
	dial := s.dial
	if dial == 0 {
		dial = 30 * time.Second
	}
	h := &host{site: s, registry: registry, extra: opts.Headers, sleep: opts.sleep}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dial}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       5 * time.Second, // a pull is over soon
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // a decoded body would have another digest
	}
	var rt http.RoundTripper = transport
	if opts.Trace != nil {
		rt = &tracer{rt, opts.Trace}
	}
	if opts.Log.on() {
		rt = newLogger(rt, opts.Log, opts.Headers, s.header)
	}
	if s.either() {
		h.scheme = "https"
		rt = &plainFallback{next: rt}
	}
	h.auth = auth.Client{
		Client:   &http.Client{Transport: rt, CheckRedirect: h.redirect},
		Cache:    auth.NewCache(),
		ClientID: "containerd-client",
	}
	h.auth.SetUserAgent("containerd/" + version.Version)
	if opts.Credentials != nil {
		h.auth.Credential = h.credential(opts.Credentials)
	}
	return h, nil
}

// errHeader ends a negotiation: the credential is a header to send as it is.
var errHeader = errors.New("credential is a header")

func (h *host) credential(ask func(context.Context, string) (Credential, error)) auth.CredentialFunc {
	return func(ctx context.Context, address string) (auth.Credential, error) {
		if address != h.address { // where an upload was redirected to
			return auth.EmptyCredential, nil
		}
		c, err := ask(ctx, address)
		if err != nil {
			return auth.EmptyCredential, err
		}
		if c.Header != "" {
			h.mu.Lock()
			h.authorization = c.Header
			h.mu.Unlock()
			return auth.EmptyCredential, errHeader
		}
		if c.Username == "" && c.Password != "" { // an identity token
			c.RefreshToken, c.Password = c.Password, ""
		}
		return auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.RefreshToken}, nil
	}
}

// maxRedirects is how many redirects a request follows.
const maxRedirects = 10

// redirect keeps what is meant for this host from another one: credentials
// and the headers that were configured.
func (h *host) redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	from := via[len(via)-1].URL
	if req.URL.Host == from.Host && (from.Scheme != "https" || req.URL.Scheme == "https") {
		return nil
	}
	req.Header.Del("Authorization")
	req.Header.Del("Cookie")
	for _, set := range []http.Header{h.extra, h.header} {
		for k := range set {
			req.Header.Del(k)
		}
	}
	return nil
}

// plainFallback goes over to http when a server on loopback answers a TLS
// handshake in plain text.
type plainFallback struct {
	next http.RoundTripper

	mu    sync.Mutex
	plain bool
}

func (p *plainFallback) RoundTrip(req *http.Request) (*http.Response, error) {
	p.mu.Lock()
	plain := p.plain
	p.mu.Unlock()
	if !plain {
		resp, err := p.next.RoundTrip(req)
		var notTLS tls.RecordHeaderError
		if !errors.As(err, &notTLS) && (err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")) {
			return resp, err
		}
		p.mu.Lock()
		p.plain = true
		p.mu.Unlock()
	}
	clone := req.Clone(req.Context())
	clone.URL.Scheme = "http"
	if !plain && req.GetBody != nil { // the first attempt has closed the body
		var err error
		if clone.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return p.next.RoundTrip(clone)
}

// request is what to ask a host.
type request struct {
	method  string
	path    []string // below the API's root, unless url is set
	url     *url.URL
	query   url.Values
	header  http.Header
	body    func() (io.ReadCloser, error)
	size    int64
	scopes  []string // what the request needs to be allowed to do
	patient bool     // retry failures of the server, since no other host is left
}

// do sends a request, as often as it takes or makes sense. The answer may
// have any status that another attempt would not change.
func (h *host) do(ctx context.Context, r request) (*http.Response, error) {
	for i := 1; ; i++ {
		resp, err := h.send(ctx, r)
		if errors.Is(err, errHeader) {
			resp, err = h.send(ctx, r)
		}
		wait, again := r.again(resp, err, i)
		if ctx.Err() != nil || !again {
			if err != nil {
				err = h.describe(r, err)
			}
			return resp, err
		}
		if resp != nil {
			drain(resp)
		}
		if err := h.sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *host) describe(r request, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL is in what follows, without its query
	}
	var kind error = errdefs.ErrUnavailable
	var token *errcode.ErrorResponse
	switch {
	case errors.Is(err, context.Canceled):
		kind = context.Canceled
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		kind = errdefs.ErrUnauthenticated
	case errors.As(err, &token) && statusKinds[token.StatusCode] != nil:
		kind, err = statusKinds[token.StatusCode], token // it names the request that failed
	}
	return fmt.Errorf("%s %s: %w: %w", r.method, h.where(r), err, kind)
}

func (h *host) where(r request) string {
	if r.url != nil {
		return r.url.Scheme + "://" + r.url.Host + r.url.Path
	}
	return h.scheme + "://" + h.address + h.path + "/" + strings.Join(r.path, "/")
}

func (h *host) send(ctx context.Context, r request) (*http.Response, error) {
	u := r.url
	if u == nil {
		u = &url.URL{Scheme: h.scheme, Host: h.address, Path: h.path + "/" + strings.Join(r.path, "/")}
		q := url.Values{}
		for k, v := range r.query {
			q[k] = v
		}
		if h.address != apiHost(h.registry) {
			q.Set("ns", h.registry)
		}
		u.RawQuery = q.Encode()
	}
	if len(r.scopes) > 0 {
		ctx = auth.WithScopesForHost(ctx, u.Host, r.scopes...)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	h.addHeaders(req, r)
	if r.body != nil {
		if req.Body, err = r.body(); err != nil {
			return nil, err
		}
		req.GetBody, req.ContentLength = r.body, r.size
	}
	return h.auth.Do(req)
}

func (h *host) addHeaders(req *http.Request, r request) {
	sets := []http.Header{r.header}
	ours := req.URL.Host == h.address && (h.scheme != "https" || req.URL.Scheme == "https")
	if ours {
		sets = []http.Header{h.extra, h.header, r.header}
	}
	for _, set := range sets {
		for k, v := range set {
			req.Header[k] = append([]string(nil), v...)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.authorization != "" && ours {
		req.Header.Set("Authorization", h.authorization)
	}
}

// longestWait bounds how long a server can make a request wait at a time.
const longestWait = time.Minute

// again decides about another attempt after so many, and how long to wait
// first: as long as the server says, else longer each time and never the same
// for two clients.
func (r request) again(resp *http.Response, err error, attempt int) (time.Duration, bool) {
	wait := backOff(attempt)
	if err != nil {
		return wait, attempt < attempts && r.patient && isTransient(err)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return min(max(wait, retryAfter(resp, time.Now())), longestWait), attempt < busyAttempts
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return min(max(wait, retryAfter(resp, time.Now())), longestWait), attempt < attempts && r.patient
	}
	return 0, false
}

// backOff is about 0.1 s, 0.2 s, 0.4 s, … up to 5 s.
func backOff(attempt int) time.Duration {
	base := min(100*time.Millisecond<<min(attempt-1, 10), 5*time.Second)
	return time.Duration(float64(base) * (0.5 + rand.Float64()))
}

// retryAfter reads the header of RFC 9110 section 10.2.3: seconds or a date.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	v := resp.Header.Get("Retry-After")
	if s, err := strconv.Atoi(v); err == nil && s > 0 {
		return time.Duration(min(s, 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return at.Sub(now)
	}
	return 0
}

// isTransient tells a connection that broke from one that cannot be.
func isTransient(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		return dns.IsTemporary
	case errors.As(err, &op):
		return op.Op != "dial"
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
}

// statusKinds are the kinds of error that statuses stand for.
var statusKinds = map[int]error{
	http.StatusUnauthorized:    errdefs.ErrUnauthenticated,
	http.StatusForbidden:       errdefs.ErrPermissionDenied,
	http.StatusNotFound:        errdefs.ErrNotFound,
	http.StatusTooManyRequests: errdefs.ErrResourceExhausted,
}

// unexpected turns an answer into an error and closes it.
func (h *host) unexpected(r request, resp *http.Response) error {
	defer drain(resp)
	kind, ok := statusKinds[resp.StatusCode]
	switch {
	case ok:
	case resp.StatusCode >= 500:
		kind = errdefs.ErrUnavailable
	default:
		kind = errdefs.ErrUnknown
	}
	return fmt.Errorf("%s %s: unexpected status %s%s: %w", r.method, h.where(r), resp.Status, explanation(resp), kind)
}

// explanation is what an error body of the distribution spec says.
func explanation(resp *http.Response) string {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 16<<10)).Decode(&body) != nil || len(body.Errors) == 0 {
		return ""
	}
	e := body.Errors[0]
	return fmt.Sprintf(" (%s: %s)", e.Code, e.Message)
}
