// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/image"
)

func TestAnIndexThatListsItsManifestsTwiceIsNotReduced(t *testing.T) {
	w := newWorld(t)
	p := &push{Service: w.Service, store: w.DB.Content(scope)}
	one := `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"` + digest.FromString("x").String() + `"}`
	data := []byte(`{"schemaVersion":2,"manifests":[` + one + `,` + one + `],"Manifests":[` + one + `]}`)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := p.put(t.Context(), desc, data); err != nil {
		t.Fatal(err)
	}
	children, err := image.Children(t.Context(), p.store, desc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.without(t.Context(), desc, make([]bool, len(children))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}
