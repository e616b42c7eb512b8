// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
)

// Log tells people of the traffic with registries. The zero value is silent.
type Log struct {
	// Write gets one text after the other, of any number of lines and maybe
	// concurrently.
	Write       func(text string)
	Heads       bool // of requests and responses, without secrets and bodies
	Connections bool // how they come about
}

func (l Log) on() bool { return l.Write != nil && (l.Heads || l.Connections) }

// logger writes a log of the requests that go through it.
type logger struct {
	next   http.RoundTripper
	log    Log
	secret []string // names of headers that may be secret
}

// secretHeaders are secret everywhere.
var secretHeaders = []string{"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie"}

func newLogger(next http.RoundTripper, log Log, configured ...http.Header) *logger {
	l := &logger{next, log, slices.Clone(secretHeaders)}
	for _, h := range configured {
		for k := range h {
			l.secret = append(l.secret, http.CanonicalHeaderKey(k))
		}
	}
	return l
}

func (l *logger) RoundTrip(req *http.Request) (*http.Response, error) {
	name := req.Method + " " + hideQuery(req.URL.String())
	if l.log.Heads {
		l.log.Write(name + "\n" + l.lines("> ", req.Header))
	}
	if l.log.Connections {
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), l.connections(name)))
	}
	resp, err := l.next.RoundTrip(req)
	switch {
	case !l.log.Heads:
	case err != nil:
		l.log.Write(name + ": " + err.Error() + "\n")
	default:
		l.log.Write(name + ": " + resp.Status + "\n" + l.lines("< ", resp.Header))
	}
	return resp, err
}

// lines lists headers, without what is secret.
func (l *logger) lines(prefix string, h http.Header) string {
	var names []string
	for k := range h {
		names = append(names, k)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, k := range names {
		for _, v := range h[k] {
			switch {
			case slices.Contains(l.secret, k):
				v = "(secret)"
			case k == "Location":
				v = hideQuery(v)
			}
			fmt.Fprintf(&b, "%s%s: %s\n", prefix, k, v)
		}
	}
	return b.String()
}

// hideQuery replaces a query, which may be a signature.
func hideQuery(url string) string {
	base, _, has := strings.Cut(url, "?")
	if has {
		base += "?…"
	}
	return base
}

func (l *logger) connections(name string) *httptrace.ClientTrace {
	say := func(format string, args ...any) { l.log.Write(name + ": " + fmt.Sprintf(format, args...) + "\n") }
	return &httptrace.ClientTrace{
		DNSDone: func(i httptrace.DNSDoneInfo) {
			if i.Err != nil {
				say("look up the address: %v", i.Err)
				return
			}
			say("addresses %v", i.Addrs)
		},
		ConnectDone: func(network, address string, err error) {
			if err != nil {
				say("connect to %s %s: %v", network, address, err)
				return
			}
			say("connected to %s %s", network, address)
		},
		TLSHandshakeDone: func(s tls.ConnectionState, err error) {
			if err != nil {
				say("TLS handshake: %v", err)
				return
			}
			say("%s", describeTLS(&s))
		},
		GotConn: func(i httptrace.GotConnInfo) {
			say("on the connection from %s to %s, used before: %v", i.Conn.LocalAddr(), i.Conn.RemoteAddr(), i.Reused)
		},
		GotFirstResponseByte: func() { say("the response begins") },
	}
}
