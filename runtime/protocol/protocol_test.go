// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"io"
	"os"
	"strings"
	"testing"

	"slipway/linux"
)

func pair(t *testing.T) (runtime, init *Conn) {
	t.Helper()
	a, b, err := linux.SocketPair("init")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return NewConn(a), NewInitConn(b)
}

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		packets string
		ok      bool
	}{
		{"config ready", true},
		{"config hooks resume ready", true},
		{"config mount tree mount tree hooks resume ready", true},
		{"config mount ready", false},
		{"config tree", false},
		{"config hooks resume mount", false},
		{"config hooks resume console notify ready", true},
		{"config console ready", true},
		{"config notify ready failed", true},
		{"config failed", true},
		{"config hooks resume failed", true},
		{"ready", false},
		{"failed", false},
		{"config config", false},
		{"config resume", false},
		{"config hooks ready", false},
		{"config ready console", false},
		{"config notify console", false},
		{"config ready ready", false},
	} {
		runtime, init := pair(t)
		var err error
		for _, k := range strings.Fields(c.packets) {
			from, to := init, runtime
			if down[Kind(k)] {
				from, to = runtime, init
			}
			n := files[Kind(k)]
			if err = from.Send(Message{Kind: Kind(k)}, []*os.File{os.Stdin, os.Stdin}[:n]...); err != nil {
				break
			}
			m, got, err := to.Receive()
			if err != nil || m.Kind != Kind(k) || len(got) != n {
				t.Errorf("%s: received %q with %d files, %v", c.packets, m.Kind, len(got), err)
			}
			for _, f := range got {
				f.Close()
			}
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v", c.packets, err)
		}
	}
}

func TestReceiverChecksOrderAndDirection(t *testing.T) {
	runtime, init := pair(t)
	for _, packet := range []string{`{"kind":"ready"}`, `{"kind":"config"}`, `{"kind":"what"}`, `not json`} {
		if err := linux.Send(init.socket, []byte(packet)); err != nil {
			t.Fatal(err)
		}
		if m, _, err := runtime.Receive(); err == nil {
			t.Errorf("accepted %+v from the init", m)
		}
	}
	init.Close()
	if _, _, err := runtime.Receive(); err != io.EOF {
		t.Errorf("after the end: %v, want EOF", err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"kind":"failed","error":"no"}`))
	f.Add([]byte(`{"kind":"console"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		runtime, init := pair(t)
		runtime.at = configured
		if len(data) == 0 || linux.Send(init.socket, data) != nil {
			return
		}
		m, files, err := runtime.Receive()
		if err == nil && down[m.Kind] {
			t.Errorf("accepted %q from the init", m.Kind)
		}
		for _, f := range files {
			f.Close()
		}
	})
}

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":            "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":            "net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.100/forward": "net/ipv4/conf/eth0.100/forward",
		"net.ipv4.conf.eth0/100.forward": "net/ipv4/conf/eth0.100/forward",
	} {
		if got := SysctlPath(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}
