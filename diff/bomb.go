// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

// bomb watches a layer for growing out of all proportion when it is unpacked.
//
// Files of zeros are made with holes and cost nothing but time, and gzip packs
// them 1032:1 at best; images do have such files. What takes space packs far
// less. A layer may unpack to free bytes whatever its size.
type bomb struct {
	free   int64
	packed atomic.Int64 // bytes read of the packed layer
	plain  int64        // bytes of the archive
	solid  int64        // bytes of its files that are no holes
}

const (
	freeSize   = 1 << 30
	plainRatio = 1100
	solidRatio = 300
)

// countPacked counts what is read of the packed layer.
func (b *bomb) countPacked(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		b.packed.Add(int64(n))
		return n, err
	})
}

// checkPlain checks what is read of the archive.
func (b *bomb) checkPlain(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		b.plain += int64(n)
		if cerr := b.check(b.plain, plainRatio); cerr != nil {
			return 0, cerr
		}
		return n, err
	})
}

// write checks before n bytes that take space are written.
func (b *bomb) write(n int) error {
	if b == nil {
		return nil
	}
	b.solid += int64(n)
	return b.check(b.solid, solidRatio)
}

func (b *bomb) check(n, ratio int64) error {
	if packed := b.packed.Load(); n > b.free && n/ratio > packed {
		return fmt.Errorf("layer unpacks to more than the limit of %d bytes and of %d times the %d that it has had: %w", b.free, ratio, packed, errdefs.ErrInvalidArgument)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
