// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"io"
	"sync"

	"slipway/content"
)

// tail is a blob that is read while it is being written. Its bytes are on
// disk, so that readers may be as slow as they like: nothing is kept for them.
//
// A tail belongs to its writer and its readers, and is closed by the last.
type tail struct {
	file content.Tail

	mu    sync.Mutex
	users int
	size  int64         // bytes that may be read
	end   error         // io.EOF once all are there, or why they never will
	grown chan struct{} // closed at the next change of size or end
}

// newTail returns the tail of an ingest that holds size bytes.
func newTail(file content.Tail, size int64) *tail {
	return &tail{file: file, users: 1, size: size, grown: make(chan struct{})}
}

// grow tells readers that there are n more bytes.
func (t *tail) grow(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size += n
	close(t.grown)
	t.grown = make(chan struct{})
}

// finish ends writing. err is nil if the blob is complete.
func (t *tail) finish(err error) {
	if err == nil {
		err = io.EOF
	}
	t.mu.Lock()
	t.end = err
	close(t.grown)
	t.grown = make(chan struct{})
	t.mu.Unlock()
	t.release()
}

func (t *tail) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users--; t.users == 0 {
		t.file.Close()
	}
}

// reader reads the blob from its beginning, or is nil if the tail is closed.
func (t *tail) reader(ctx context.Context) io.ReadCloser {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users == 0 {
		return nil
	}
	t.users++
	return &tailReader{ctx: ctx, tail: t}
}

type tailReader struct {
	ctx    context.Context // of one layer; a Reader has no other place for it
	tail   *tail
	offset int64
}

func (r *tailReader) Read(p []byte) (int, error) {
	for {
		r.tail.mu.Lock()
		size, end, grown := r.tail.size, r.tail.end, r.tail.grown
		r.tail.mu.Unlock()
		if r.offset < size {
			n, err := r.tail.file.ReadAt(p[:min(int64(len(p)), size-r.offset)], r.offset)
			r.offset += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if end != nil {
			return 0, end
		}
		select {
		case <-grown:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}

func (r *tailReader) Close() error {
	r.tail.release()
	return nil
}
