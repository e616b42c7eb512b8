// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
)

// Media types of Docker and what they are called in OCI.
var ociNames = map[string]string{
	"application/vnd.docker.distribution.manifest.list.v2+json": ocispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json":      ocispec.MediaTypeImageManifest,
	"application/vnd.docker.container.image.v1+json":            ocispec.MediaTypeImageConfig,
	"application/vnd.docker.image.rootfs.diff.tar":              ocispec.MediaTypeImageLayer,
	"application/vnd.docker.image.rootfs.diff.tar.gzip":         ocispec.MediaTypeImageLayerGzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":         ocispec.MediaTypeImageLayerZstd,
	"application/vnd.docker.image.rootfs.foreign.diff.tar":      "application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
}

// ofPacking reports whether an annotation of a layer speaks of how it is packed:
// the tables of contents of eStargz and zstd:chunked.
func ofPacking(key string) bool {
	for _, prefix := range []string{"containerd.io/snapshot/stargz/", "io.containers.estargz.", "io.github.containers.zstd-chunked."} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// mediaType is the new name of a media type.
func (c *converter) mediaType(name string) string {
	if oci := ociNames[name]; oci != "" && c.opts.OCI {
		return oci
	}
	return name
}

// renamed reports whether a document of that media type gets another one.
func (c *converter) renamed(name string) bool { return c.mediaType(name) != name }

// layerType is the media type of a layer that is packed in another way.
func layerType(name string, as diff.Compression) string {
	suffix := map[diff.Compression]string{diff.None: "", diff.Gzip: "gzip", diff.Zstd: "zstd"}[as]
	separator := "+"
	if strings.Contains(name, "vnd.docker.") {
		separator = "."
	}
	for _, old := range []string{"gzip", "zstd"} {
		name = strings.TrimSuffix(name, separator+old)
	}
	if suffix == "" {
		return name
	}
	return name + separator + suffix
}
