// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
)

// pending is a layer on its way into the content store.
type pending struct {
	desc  ocispec.Descriptor
	begun chan struct{} // closed when there is something to read
	done  chan struct{} // closed when the blob is stored and verified
	once  sync.Once
	tail  *tail // set before begun is closed, nil if the blob was there
}

func newPending(desc ocispec.Descriptor) *pending {
	return &pending{desc: desc, begun: make(chan struct{}), done: make(chan struct{})}
}

func (l *pending) begin(t *tail) {
	l.once.Do(func() {
		l.tail = t
		close(l.begun)
	})
}

func (l *pending) finish() {
	l.begin(nil)
	close(l.done)
}

// wait returns when the blob is stored. A download that fails ends ctx.
func (l *pending) wait(ctx context.Context) error { return waitFor(ctx, l.done) }

func waitFor(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// open reads the layer from its beginning, whatever there is of it.
func (l *pending) open(ctx context.Context, store content.Provider) (io.ReadCloser, error) {
	if err := waitFor(ctx, l.begun); err != nil {
		return nil, err
	}
	if l.tail != nil {
		if r := l.tail.reader(ctx); r != nil {
			return r, nil
		}
	}
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	ra, err := store.ReaderAt(ctx, l.desc.Digest)
	if err != nil {
		return nil, err
	}
	return &blobReader{io.NewSectionReader(ra, 0, ra.Size()), ra}, nil
}

// blobReader reads a stored blob.
type blobReader struct {
	io.Reader
	io.Closer
}
