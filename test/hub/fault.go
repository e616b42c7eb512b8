// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// Fault changes the answer to the requests that it matches.
type Fault struct {
	Method string // "" for any
	Path   string // part of the path, "" for any
	Skip   int    // leave so many matching requests alone first
	Times  int    // apply so often, 0 for always

	// What happens: the first of these that is set.
	Status     int              // answer this, with Header
	Body       func() io.Reader // answer 200 with this, with Header
	Cut        int64            // break the connection after so many bytes of the body
	Stall      int64            // stop sending after so many bytes, until the client goes
	CutRequest int64            // break the connection after so many bytes of the request
	Flip       bool             // change the first byte
	Delay      time.Duration    // wait before the answer
	Do         http.HandlerFunc

	Header http.Header
}

// Fail adds a fault. An earlier one that matches wins.
func (h *Hub) Fail(f Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, &f)
}

// Heal ends all faults.
func (h *Hub) Heal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = nil
}

// fault finds the one for r. It is called with mu held.
func (h *Hub) fault(r *http.Request) *Fault {
	for i, f := range h.faults {
		if f.Method != "" && f.Method != r.Method || !strings.Contains(r.URL.Path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times == 1 {
			h.faults = append(h.faults[:i:i], h.faults[i+1:]...)
		}
		f.Times--
		return f
	}
	return nil
}

// apply answers, and returns nil, or the writer to answer with.
func (f *Fault) apply(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	for k, v := range f.Header {
		w.Header()[k] = v
	}
	switch {
	case f.Status != 0:
		refuse(w, f.Status, "FAULT")
	case f.Body != nil:
		io.Copy(w, f.Body())
	case f.Cut > 0:
		return &breaker{ResponseWriter: w, left: f.Cut, end: func() { panic(http.ErrAbortHandler) }}
	case f.Stall > 0:
		return &breaker{ResponseWriter: w, left: f.Stall, end: func() { <-r.Context().Done(); panic(http.ErrAbortHandler) }}
	case f.CutRequest > 0:
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, f.CutRequest), broken{}))
		return w
	case f.Flip:
		return &flipper{ResponseWriter: w}
	case f.Delay > 0:
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
		}
		return w
	case f.Do != nil:
		f.Do(w, r)
	default:
		return w
	}
	return nil
}

// broken is the end of a request that was cut.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// breaker ends an answer after some bytes.
type breaker struct {
	http.ResponseWriter
	left int64
	end  func()
}

func (b *breaker) Write(p []byte) (int, error) {
	if int64(len(p)) < b.left {
		b.left -= int64(len(p))
		return b.ResponseWriter.Write(p)
	}
	b.ResponseWriter.Write(p[:b.left])
	http.NewResponseController(b.ResponseWriter).Flush()
	b.end()
	return 0, io.ErrClosedPipe
}

// flipper changes the first byte of an answer.
type flipper struct {
	http.ResponseWriter
	done bool
}

func (f *flipper) Write(p []byte) (int, error) {
	if !f.done && len(p) > 0 {
		f.done = true
		p = append([]byte{p[0] ^ 0xff}, p[1:]...)
	}
	return f.ResponseWriter.Write(p)
}
