// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/diff"
	"slipway/image"
)

// ReadOpts changes Read; the zero value is the default.
type ReadOpts struct {
	Compress bool // gzip the layers of docker save that are not compressed
}

// Read puts the blobs of an archive into store and returns the descriptor of
// the index that lists its images, which is stored too.
func Read(ctx context.Context, r io.Reader, store Store, opts ReadOpts) (ocispec.Descriptor, error) {
	plain, _, err := diff.Decompress(r)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("archive: %w", err)
	}
	defer plain.Close()
	a := &reader{
		store: store, opts: opts, id: rand.Text(), buf: make([]byte, 1<<20),
		docs: map[string][]byte{}, files: map[string]file{}, links: map[string]string{},
	}
	if err := a.entries(ctx, plain); err != nil {
		return ocispec.Descriptor{}, err
	}
	switch {
	case a.docs[layoutFile] != nil:
		return a.oci(ctx)
	case a.docs[manifestFile] != nil:
		return a.docker(ctx)
	}
	return ocispec.Descriptor{}, fmt.Errorf("unrecognized image format: the archive has neither %s nor %s: %w", layoutFile, manifestFile, errdefs.ErrInvalidArgument)
}

// reader is one Read.
type reader struct {
	store Store
	opts  ReadOpts
	id    string // in the refs of ingests, so that two imports do not meet
	count int
	names int // bytes of all paths so far
	buf   []byte
	docs  map[string][]byte // the files that are read, not stored
	files map[string]file   // the stored ones by their paths
	links map[string]string // from path to path
}

// file is what was stored of a file in the archive.
type file struct {
	digest digest.Digest
	size   int64
}

// entries goes through the archive once, to the end of the stream: a client
// that sends it would wait for its last bytes to be taken.
func (a *reader) entries(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("archive: %w", badTar(err))
		}
		if n == maxEntries {
			return fmt.Errorf("archive: more than the limit of %d entries: %w", maxEntries, errdefs.ErrInvalidArgument)
		}
		if err := a.entry(ctx, h, tr); err != nil {
			return fmt.Errorf("archive: entry %q: %w", h.Name, badTar(err))
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// badTar says that the archive is at fault, if it is.
func badTar(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("malformed or cut short: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

func (a *reader) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if a.names += len(h.Name) + len(h.Linkname); a.names > maxNames {
		return fmt.Errorf("more than the limit of %d bytes of paths: %w", maxNames, errdefs.ErrInvalidArgument)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if isSparse(h) {
			return fmt.Errorf("sparse files are not taken: %w", errdefs.ErrInvalidArgument)
		}
		return a.file(ctx, name, h.Size, r)
	case tar.TypeSymlink:
		a.links[name] = strings.TrimPrefix(path.Join("/", path.Dir(name), h.Linkname), "/")
	case tar.TypeLink:
		a.links[name] = strings.TrimPrefix(path.Join("/", h.Linkname), "/")
	}
	return nil // anything else is of no use to an image
}

// isSparse recognizes the encoding by which a small archive holds a huge file
// in the headers that the library leaves.
func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func (a *reader) file(ctx context.Context, name string, size int64, r io.Reader) error {
	switch name {
	case layoutFile, indexFile, manifestFile:
		if size > image.MaxDocument {
			return fmt.Errorf("%d bytes are more than the limit of %d: %w", size, image.MaxDocument, errdefs.ErrInvalidArgument)
		}
		data, err := io.ReadAll(r)
		a.docs[name] = data
		return err
	}
	var want digest.Digest
	if rest, ok := strings.CutPrefix(name, blobDir); ok {
		alg, hex, _ := strings.Cut(rest, "/")
		want = digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		if err := want.Validate(); err != nil {
			return fmt.Errorf("blob: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	f, err := a.put(ctx, r, size, want, nil)
	if err == nil {
		a.files[name] = f
	}
	return err
}

// put stores size bytes of r, -1 for all of them.
func (a *reader) put(ctx context.Context, r io.Reader, size int64, want digest.Digest, labels map[string]string) (f file, err error) {
	a.count++
	ref := fmt.Sprintf("import-%s-%d", a.id, a.count)
	opts := content.WriterOpts{Ref: ref, Expected: want, Total: max(size, 0)}
	w, err := a.store.Writer(ctx, opts)
	if errdefs.IsAlreadyExists(err) {
		return file{want, size}, nil
	}
	if err != nil {
		return file{}, err
	}
	defer w.Close()
	defer func() {
		if err == nil {
			return
		}
		w.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		a.store.Abort(ctx, ref) // what stays is the collector's
	}()
	st, err := w.Status()
	if err != nil {
		return file{}, err
	}
	if st.Offset == 0 { // else another namespace has brought it
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, r, a.buf); err != nil {
			return file{}, err
		}
		if st, err = w.Status(); err != nil {
			return file{}, err
		}
	}
	f = file{w.Digest(), st.Offset}
	if want != "" {
		f.digest = want
	}
	err = w.Commit(ctx, max(size, 0), want, labels)
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return f, err
}

// putDocument stores v as JSON.
func (a *reader) putDocument(ctx context.Context, mediaType string, data []byte, labels map[string]string) (ocispec.Descriptor, error) {
	f, err := a.put(ctx, strings.NewReader(string(data)), int64(len(data)), digest.FromBytes(data), labels)
	return ocispec.Descriptor{MediaType: mediaType, Digest: f.digest, Size: f.size}, err
}

// oci is the index of a layout of OCI.
func (a *reader) oci(ctx context.Context) (desc ocispec.Descriptor, err error) {
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(a.docs[layoutFile], &layout); err != nil {
		return desc, fmt.Errorf("archive: %s: %w: %w", layoutFile, err, errdefs.ErrInvalidArgument)
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return desc, fmt.Errorf("archive: %s: unsupported version %q: %w", layoutFile, layout.Version, errdefs.ErrInvalidArgument)
	}
	data := a.docs[indexFile]
	if data == nil {
		return desc, fmt.Errorf("archive: %s is missing: %w", indexFile, errdefs.ErrInvalidArgument)
	}
	return a.putDocument(ctx, ocispec.MediaTypeImageIndex, data, nil)
}
