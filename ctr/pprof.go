// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

func debugSocket(s *session, f flagSet) {
	f.StringVarP(&s.group.debugSocket, "debug-socket", "d", "/run/containerd/debug.sock", "Socket of the daemon's debug server")
}

func pprofCommands() []command {
	profile := func(name string, level int) func(flagSet) action {
		return func(f flagSet) action {
			debug := f.Uint("debug", uint(level), "Form of the profile, 0 for go tool pprof")
			return func(s *session, _ []string) error {
				return s.profile(name, url.Values{"debug": {fmt.Sprint(*debug)}})
			}
		}
	}
	timed := func(name string, span time.Duration) func(flagSet) action {
		return func(f flagSet) action {
			d := f.DurationP("seconds", "s", span, "How long to look")
			if name == "profile" {
				f.Uint("debug", 0, "Form of the profile")
			}
			return func(s *session, _ []string) error {
				return s.profile(name, url.Values{"seconds": {fmt.Sprint(int(d.Seconds()))}})
			}
		}
	}
	return []command{
		{use: "block", short: "Where goroutines block", declare: profile("block", 0)},
		{use: "goroutines", short: "The stacks of all goroutines", declare: profile("goroutine", 2)},
		{use: "heap", short: "What takes the memory", declare: profile("heap", 0)},
		{use: "profile", short: "What takes the CPU", declare: timed("profile", 30*time.Second)},
		{use: "threadcreate", short: "What makes threads", declare: profile("threadcreate", 0)},
		{use: "trace", short: "An execution trace", declare: timed("trace", 5*time.Second)},
	}
}

// profile copies a profile from the debug server to standard output.
func (s *session) profile(name string, query url.Values) error {
	web := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.group.debugSocket)
	}}}
	defer web.CloseIdleConnections()
	u := url.URL{Scheme: "http", Host: ".", Path: "/debug/pprof/" + name, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(s.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := web.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile %s: %s", name, resp.Status)
	}
	_, err = io.Copy(s.out, resp.Body)
	return err
}
