// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A file is the body of a request as it is: package net/http then sends it to
// a connection without TLS by sendfile(2), past this process.
type file interface {
	io.ReadSeekCloser
	syscall.Conn
}

// open opens the blob at the offset. Each request has a reader of its own: the
// transport may still use that of one which broke.
func (u *upload) open(ctx context.Context) (io.ReadCloser, error) {
	ra, err := u.provider.ReaderAt(ctx, u.desc.Digest)
	if err != nil {
		return nil, err
	}
	f, ok := ra.(file)
	if !ok {
		c := &counter{Reader: io.NewSectionReader(ra, u.offset, u.size-u.offset), Closer: ra}
		c.n.Store(u.offset)
		position := c.n.Load
		u.position.Store(&position)
		return c, nil
	}
	if _, err := f.Seek(u.offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	position := func() int64 {
		n, _ := f.Seek(0, io.SeekCurrent) // fails once it is closed
		return n
	}
	u.position.Store(&position)
	return f, nil
}

// counter counts how much was read of it.
type counter struct {
	io.Reader
	io.Closer
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// watchEvery is how often an upload looks how far it has come.
const watchEvery = 100 * time.Millisecond

// watch tells progress how far the upload has come, until it is stopped. An
// upload that begins again is not spoken of before it has come further.
func (u *upload) watch(progress func(int64)) (stop func()) {
	quit := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for most := int64(0); ; {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			position := u.position.Load()
			if position == nil {
				continue
			}
			if n := (*position)(); n > most {
				most = n
				progress(n)
			}
		}
	})
	return func() {
		close(quit)
		done.Wait()
	}
}
