// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// IngestRef is the name under which a blob is written to a content store. It
// is the identity by which an interrupted download is resumed.
func IngestRef(d ocispec.Descriptor) string {
	kind := "unknown"
	switch {
	case IsManifest(d.MediaType):
		kind = "manifest"
	case IsIndex(d.MediaType):
		kind = "index"
	case IsLayer(d.MediaType):
		kind = "layer"
	case IsConfig(d.MediaType):
		kind = "config"
	}
	return kind + "-" + d.Digest.String()
}

// RefLabels are the labels by which an index or manifest keeps its children
// from being collected.
func RefLabels(children []ocispec.Descriptor) map[string]string {
	labels := make(map[string]string)
	count := make(map[string]int)
	for _, c := range children {
		key := "containerd.io/gc.ref.content."
		switch {
		case IsManifest(c.MediaType), IsIndex(c.MediaType):
			key += "m."
		case IsLayer(c.MediaType):
			key += "l."
		case IsConfig(c.MediaType):
			labels[key+"config"] = c.Digest.String()
			continue
		}
		labels[fmt.Sprint(key, count[key])] = c.Digest.String()
		count[key]++
	}
	return labels
}
