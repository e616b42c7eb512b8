// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"io"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// plan says when and how a blob is fetched over several connections, in
// bytes. It begins with a probe over one; only if that is slow, and enough is
// left, do parts follow over several.
type plan struct {
	probe, part int64
	worth       int64   // the least rest that is worth it
	fast        float64 // per second: beyond it is not the connection one waits for
}

var defaultPlan = plan{probe: 8 << 20, part: 4 << 20, worth: 32 << 20, fast: 150 << 20}

// maxParts is how many parts are under way, and in memory, at once.
const maxParts = 4

// FetchParts is Fetch that may use more connections. more asks for one: it
// returns the function that gives it back, or false. At most four parts are
// kept in memory.
func (r *Repository) FetchParts(ctx context.Context, desc ocispec.Descriptor, offset int64, more func() (release func(), ok bool)) (io.ReadCloser, error) {
	if desc.Size-offset < r.plan.probe+r.plan.worth || len(desc.Data) > 0 || len(desc.URLs) > 0 {
		return r.Fetch(ctx, desc, offset)
	}
	b, err := r.fetch(ctx, desc, offset, offset+r.plan.probe)
	if err != nil {
		return nil, err
	}
	if !b.ranged { // the rest comes anyway
		b.end = desc.Size
		return b, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	return &parts{ctx: ctx, cancel: cancel, repo: r, desc: desc, more: more, current: b}, nil
}

// parts is a blob that is read in order while several parts of it come in.
//
//	current   the probe; then each part, or a single connection for the rest
//	queue     the parts under way, in order
//	buffers   what a part needs before it may begin
type parts struct {
	ctx    context.Context // of one Fetch; a Reader has no other place for it
	cancel context.CancelFunc
	repo   *Repository
	desc   ocispec.Descriptor
	more   func() (func(), bool)

	current io.ReadCloser
	err     error         // why no more parts follow
	probe   time.Duration // waited for the probe so far
	probed  int64
	queue   chan chan part
	buffers chan []byte
	workers sync.WaitGroup
}

// part is one that has come in, or why it has not.
type part struct {
	data []byte
	err  error
}

func (p *parts) Read(b []byte) (int, error) {
	for {
		start := time.Now()
		n, err := p.current.Read(b)
		if p.queue == nil {
			p.probe += time.Since(start)
			p.probed += int64(n)
		}
		if n > 0 || err != io.EOF {
			return n, err
		}
		if p.err == nil {
			p.err = p.next()
		}
		if p.err != nil {
			return 0, p.err
		}
	}
}

// next takes the next part, io.EOF after the last one.
func (p *parts) next() error {
	if _, ok := p.current.(*body); ok && p.queue == nil {
		at := p.current.(*body).offset
		if at >= p.desc.Size {
			return io.EOF
		}
		p.current.Close()
		release, ok := func() {}, false
		if float64(p.probed)/p.probe.Seconds() < p.repo.plan.fast {
			release, ok = p.more()
		}
		if !ok {
			b, err := p.repo.fetch(p.ctx, p.desc, at, p.desc.Size)
			if err == nil {
				p.current = b
			}
			return err
		}
		p.begin(at, release)
	}
	result, ok := <-p.queue
	if !ok {
		return io.EOF
	}
	got := <-result
	if got.err != nil {
		return got.err
	}
	p.current.Close()
	p.current = &filled{data: got.data, buf: got.data[:cap(got.data)], free: p.buffers}
	return nil
}

// begin starts with the parts from at on, over two connections and as many
// more as there are.
func (p *parts) begin(at int64, release func()) {
	p.queue = make(chan chan part, maxParts)
	p.buffers = make(chan []byte, maxParts)
	for range 2 {
		p.buffers <- make([]byte, p.repo.plan.part)
	}
	p.workers.Go(func() {
		releases := []func(){release}
		defer func() {
			for _, release := range releases {
				release()
			}
		}()
		defer close(p.queue)
		for ; at < p.desc.Size; at += p.repo.plan.part {
			if len(releases) < maxParts-1 {
				if release, ok := p.more(); ok {
					releases = append(releases, release)
					p.buffers <- make([]byte, p.repo.plan.part)
				}
			}
			if !p.start(at) {
				return
			}
		}
	})
}

// start fetches one part, once there is room for it.
func (p *parts) start(at int64) bool {
	var buf []byte
	select {
	case buf = <-p.buffers:
	case <-p.ctx.Done():
		return false
	}
	result := make(chan part, 1)
	select {
	case p.queue <- result:
	case <-p.ctx.Done():
		return false
	}
	p.workers.Go(func() {
		data := buf[:min(p.repo.plan.part, p.desc.Size-at)]
		b, err := p.repo.fetch(p.ctx, p.desc, at, at+int64(len(data)))
		if err == nil {
			_, err = io.ReadFull(b, data)
			b.Close()
		}
		result <- part{data, err}
	})
	return true
}

func (p *parts) Close() error {
	p.cancel()
	err := p.current.Close()
	p.workers.Wait()
	return err
}

// filled is a part in memory. Its buffer is free for another one at its end.
type filled struct {
	data, buf []byte
	free      chan []byte
}

func (f *filled) Read(b []byte) (int, error) {
	if len(f.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, f.data)
	f.data = f.data[n:]
	return n, nil
}

func (f *filled) Close() error {
	if f.buf != nil {
		f.free <- f.buf
		f.buf = nil
	}
	return nil
}
