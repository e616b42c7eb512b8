// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"hash"
	"io"
)

// A stage of the pipeline hands on blocks of this size in bytes, of which
// this many exist: enough to keep the stages apart, little enough memory.
const (
	blockSize = 256 << 10
	blocks    = 6
)

type block struct {
	data []byte // as filled
	buf  []byte // all of it
	err  error  // ends the stream after data
}

// pipeline reads r in one goroutine, hashes it in a second, and is read from
// a third. Both goroutines end when the pipeline is closed.
type pipeline struct {
	ctx     context.Context // cancelled by Close
	cancel  context.CancelFunc
	free    chan []byte
	out     chan block
	done    chan struct{} // the goroutines are gone
	current block
}

func newPipeline(ctx context.Context, r io.Reader, h hash.Hash) *pipeline {
	ctx, cancel := context.WithCancel(ctx)
	p := &pipeline{ctx: ctx, cancel: cancel, free: make(chan []byte, blocks), out: make(chan block, blocks), done: make(chan struct{})}
	for range blocks {
		p.free <- make([]byte, blockSize)
	}
	read := make(chan block, blocks)
	go func() {
		defer close(read)
		p.fill(r, read)
	}()
	go func() {
		defer close(p.done)
		defer close(p.out)
		for b := range read {
			h.Write(b.data)
			select {
			case p.out <- b:
			case <-ctx.Done():
				for range read { // until the reader ends
				}
				return
			}
		}
	}()
	return p
}

func (p *pipeline) fill(r io.Reader, out chan<- block) {
	for {
		var buf []byte
		select {
		case buf = <-p.free:
		case <-p.ctx.Done():
			return
		}
		n, err := fillBlock(r, buf)
		select {
		case out <- block{data: buf[:n], buf: buf, err: err}:
		case <-p.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// fillBlock reads until buf is full or r ends, and keeps r's own error:
// io.ReadFull would turn a proper end into an unexpected one.
func fillBlock(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (p *pipeline) Read(b []byte) (int, error) {
	for len(p.current.data) == 0 {
		if p.current.err != nil {
			return 0, p.current.err
		}
		if p.current.buf != nil {
			p.free <- p.current.buf
		}
		next, ok := <-p.out
		if !ok {
			return 0, context.Cause(p.ctx)
		}
		p.current = next
	}
	n := copy(b, p.current.data)
	p.current.data = p.current.data[n:]
	return n, nil
}

// Close waits for the goroutines.
func (p *pipeline) Close() {
	p.cancel()
	<-p.done
}
