// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"slipway/test/hub"
)

// badProxy stands between clients and a server. Of every so many connections it
// cuts one, somewhere in what the server says; one that ends before has the next
// cut in its place.
type badProxy struct {
	listener  net.Listener
	server    string
	each      int64
	random    *rand.Rand
	connected atomic.Int64
	owed      atomic.Int64 // cuts that are to come
	sent      atomic.Int64 // bytes to clients
	cuts      atomic.Int64
	wg        sync.WaitGroup
}

func newBadProxy(t *testing.T, server string, each int64) *badProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &badProxy{listener: l, server: server, each: each, random: rand.New(rand.NewPCG(1, 2))}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.wg.Wait()
	})
	return p
}

func (p *badProxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.connected.Add(1)%p.each == 0 {
			p.owed.Add(1)
		}
		left := int64(-1)
		if p.owed.Load() > 0 {
			p.owed.Add(-1)
			left = p.random.Int64N(1 << 17)
		}
		p.wg.Go(func() { p.pass(c.(*net.TCPConn), left) })
	}
}

// pass copies both ways until one end has gone, or left bytes have come from
// the server.
func (p *badProxy) pass(client *net.TCPConn, left int64) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	p.wg.Go(func() {
		io.Copy(server, client)
		server.Close()
	})
	defer server.Close()
	answers := io.Reader(server)
	if left >= 0 {
		answers = io.LimitReader(server, left)
	}
	n, _ := io.Copy(counter{client, &p.sent}, answers)
	// The connection is closed, not reset: what the kernel would throw away by
	// that is not fetched twice by the client, but could not be told from it.
	switch {
	case n == left:
		p.cuts.Add(1)
	case left >= 0:
		p.owed.Add(1)
	}
}

// counter counts what is written.
type counter struct {
	io.Writer
	n *atomic.Int64
}

func (c counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// TestPullsCompleteBehindABadProxy pulls four times through a proxy that cuts
// one of eight connections, or as often as SLIPWAY_PULLS says with one of a
// hundred. The registry is too busy for some requests in a row, again and
// again.
func TestPullsCompleteBehindABadProxy(t *testing.T) {
	pulls, each := 4, int64(8)
	if s := os.Getenv("SLIPWAY_PULLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		pulls, each = n, 100
	}
	h := hub.New(t, hub.Options{})
	var layers [][]byte
	for i := range 8 {
		layers = append(layers, noise(t, fmt.Sprint("f", i), 1<<20))
	}
	h.Image("x", "t", "amd64", layers...)
	w := newWorld(t)
	p := newBadProxy(t, h.Host, each)
	ref := p.listener.Addr().String() + "/x:t"
	for i := range pulls {
		h.Heal()
		for burst := range 2 {
			h.Fail(hub.Fault{Status: http.StatusTooManyRequests, Skip: 9 * burst, Times: 4, Header: http.Header{"Retry-After": {"0"}}})
		}
		if err := w.Pull(t.Context(), scope, ref, pullOpts("i", "overlayfs")); err != nil {
			t.Fatalf("pull %d: %v", i, err)
		}
		if err := w.DB.Images(scope).Delete(t.Context(), "i", nil); err != nil {
			t.Fatal(err)
		}
		w.clean(t)
	}
	var total int64
	for _, data := range h.Content() {
		total += int64(pulls * len(data))
	}
	again := p.sent.Load() - total
	t.Logf("%d pulls, %d connections, %d cut, %d of %d bytes fetched twice", pulls, p.connected.Load(), p.cuts.Load(), again, total)
	if p.cuts.Load() == 0 {
		t.Error("no connection was cut")
	}
	if again > total/50 {
		t.Errorf("%d bytes were fetched twice, of %d", again, total)
	}
}
