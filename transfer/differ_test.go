// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	registry "github.com/google/go-containerregistry/pkg/v1/remote"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/diff"
	"slipway/event"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/snapshot"
)

// elsewhere applies layers as another process does: from the content store of
// the scope that it is told.
type elsewhere struct {
	db    *meta.DB
	asked []ocispec.Descriptor
}

func (e *elsewhere) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, _ diff.ApplyOpts) (ocispec.Descriptor, error) {
	e.asked = append(e.asked, desc)
	s, err := ident.ScopeOf(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return diff.ApplyBlob(ctx, e.db.Content(s), desc, mounts, diff.ApplyOpts{})
}

// A differ in another process gets layers that are stored, in order, each on
// the ones below.
func TestAnotherDifferUnpacks(t *testing.T) {
	w := newWorld(t)
	e := &elsewhere{db: w.DB}
	w.Differ = e
	ref := serve(t, nil) + "/x:t"
	upload(t, ref, testImage(t, "amd64"))
	opts := pullOpts(ref, "overlayfs")
	if err := w.Pull(t.Context(), scope, ref, opts); err != nil {
		t.Fatal(err)
	}
	w.clean(t)
	if got := w.files(t, "overlayfs"); got != "a a/three a/two b b/amd64" {
		t.Errorf("files: %s", got)
	}
	if len(e.asked) < 2 {
		t.Errorf("the differ was asked for %d layers", len(e.asked))
	}
}

// strict is a content store that, like one behind a socket, does nothing for
// a context that has ended.
type strict struct{ meta.ContentBackend }

func (s strict) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	if err := ctx.Err(); err != nil {
		return content.Info{}, err
	}
	return s.ContentBackend.Info(ctx, d)
}

func (s strict) ReaderAt(ctx context.Context, d digest.Digest) (content.ReaderAt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.ContentBackend.ReaderAt(ctx, d)
}

func TestPullsLeaveNoEndedContextToTheStore(t *testing.T) {
	w := newWorld(t)
	local, err := content.Open(filepath.Join(w.dir, "strict"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := meta.Open(filepath.Join(w.dir, "strict.db"), meta.Options{NoSync: true}, strict{local}, map[string]snapshot.Snapshotter{"overlayfs": w.overlay}, event.New())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := New(Config{DB: db, Capabilities: w.Capabilities, Temp: w.dir})
	ref := serve(t, nil) + "/x:t"
	idx := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: testImage(t, "amd64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.WriteIndex(r, idx); err != nil {
		t.Fatal(err)
	}
	if err := s.Pull(t.Context(), scope, ref, pullOpts(ref, "overlayfs")); err != nil {
		t.Error(err)
	}
}
