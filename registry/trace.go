// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/tls"
	"net/http"
	"strings"
	"time"
)

// Hop is one exchange with a server: of the registry, of its tokens, or of
// where it redirects to. It holds no secret.
type Hop struct {
	Method, URL string // without the query, which may be signed
	Status      int    // 0 if there was no answer
	Err         error
	Took        time.Duration
	TLS         string   // version and whose certificate, empty for plain http
	Auth        string   // scheme of the credentials that were sent, if any
	Challenges  []string // what the server asks for
	Location    string   // where it redirects to, without the query
}

// tracer tells of each exchange.
type tracer struct {
	next  http.RoundTripper
	trace func(Hop)
}

func (t *tracer) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	resp, err := t.next.RoundTrip(req)
	hop := Hop{Method: req.Method, URL: withoutQuery(req.URL.String()), Err: err, Took: time.Since(start)}
	hop.Auth, _, _ = strings.Cut(req.Header.Get("Authorization"), " ")
	if resp != nil {
		hop.Status, hop.Challenges = resp.StatusCode, resp.Header["Www-Authenticate"]
		hop.Location = withoutQuery(resp.Header.Get("Location"))
		hop.TLS = describeTLS(resp.TLS)
	}
	t.trace(hop)
	return resp, err
}

func withoutQuery(url string) string {
	url, _, _ = strings.Cut(url, "?")
	return url
}

func describeTLS(s *tls.ConnectionState) string {
	if s == nil {
		return ""
	}
	text := tls.VersionName(s.Version)
	if len(s.PeerCertificates) > 0 {
		c := s.PeerCertificates[0]
		text += ", certificate of " + strings.Join(append(c.DNSNames, c.Subject.String()), ", ")
	}
	if len(s.VerifiedChains) == 0 {
		text += ", not verified"
	}
	return text
}
