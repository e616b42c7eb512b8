// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/image"
	"slipway/internal/ident"
)

// copyBuffer is the size in bytes of the pieces a blob is copied in.
const copyBuffer = 256 << 10

// copyBlob appends to w what is missing of a blob, from offset on. A layer can
// be read while it comes in.
func (p *pull) copyBlob(ctx context.Context, w content.Writer, l *pending, offset int64, parent string) (err error) {
	rc, err := p.repo.FetchParts(ctx, l.desc, offset, func() (func(), bool) {
		return func() { p.downloads.Release(1) }, p.downloads.TryAcquire(1) // nobody waits for it
	})
	if err != nil {
		return err
	}
	defer rc.Close()
	grow := func(int64) {}
	if t := tailOf(w, l.desc, offset); t != nil {
		defer func() { t.finish(err) }()
		grow = t.grow
		l.begin(t)
	}
	buf := make([]byte, min(copyBuffer, l.desc.Size-offset))
	last := time.Now()
	p.say("downloading", l.desc, parent, offset)
	for offset < l.desc.Size {
		n, err := rc.Read(buf[:min(int64(len(buf)), l.desc.Size-offset)])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			offset += int64(n)
			grow(int64(n))
		}
		if err == io.EOF && offset < l.desc.Size {
			err = fmt.Errorf("got %d of %d bytes: %w", offset, l.desc.Size, io.ErrUnexpectedEOF)
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("image %s: fetch %s from %s: %w", p.root, l.desc.Digest, p.repo.Host(), err)
		}
		if now := time.Now(); now.Sub(last) >= reportEvery {
			last = now
			p.say("downloading", l.desc, parent, offset)
		}
	}
	return nil
}

// tailOf gives the tail of a layer's ingest of size bytes, nil if there is
// none.
func tailOf(w content.Writer, desc ocispec.Descriptor, size int64) *tail {
	t, ok := w.(content.Tailer)
	if !ok || !image.IsLayer(desc.MediaType) {
		return nil
	}
	file, err := t.Tail()
	if err != nil {
		return nil
	}
	return newTail(file, size)
}

// mergeSource adds a repository to the sorted, comma separated list of a
// distribution.source label. A list that grew too long is left as it is.
func mergeSource(list, repo string) string {
	var names []string
	if list != "" {
		names = strings.Split(list, ",")
	}
	if slices.Contains(names, repo) {
		return list
	}
	names = append(names, repo)
	slices.Sort(names)
	merged := strings.Join(names, ",")
	if ident.CheckLabel(strings.Repeat("k", 256), merged) != nil {
		return list
	}
	return merged
}

// ignoreExists drops an error that says that the work is done already.
func ignoreExists(err error) error {
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}
