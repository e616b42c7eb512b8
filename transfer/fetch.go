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
	"slipway/internal/ident"
)

// copyBuffer is the size in bytes of the pieces a blob is copied in.
const copyBuffer = 256 << 10

// copyBlob appends to w what is missing of a blob, from offset on.
func (p *pull) copyBlob(ctx context.Context, w content.Writer, desc ocispec.Descriptor, offset int64, say func(string, int64)) error {
	rc, err := p.repo.Fetch(ctx, desc, offset)
	if err != nil {
		return err
	}
	defer rc.Close()
	buf := make([]byte, min(copyBuffer, desc.Size-offset))
	last := time.Now()
	say("downloading", offset)
	for offset < desc.Size {
		n, err := rc.Read(buf[:min(int64(len(buf)), desc.Size-offset)])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			offset += int64(n)
		}
		if err == io.EOF && offset < desc.Size {
			err = fmt.Errorf("got %d of %d bytes: %w", offset, desc.Size, io.ErrUnexpectedEOF)
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("image %s: fetch %s from %s: %w", p.root, desc.Digest, p.repo.Host(), err)
		}
		if now := time.Now(); now.Sub(last) >= reportEvery {
			last = now
			say("downloading", offset)
		}
	}
	return nil
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
