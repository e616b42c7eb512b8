// SPDX-License-Identifier: Apache-2.0

// Package archive reads and writes images as tar archives.
//
// Two layouts are read. OCI's has oci-layout, index.json and blobs by their
// digest; docker save's has manifest.json, which names configs and layers by
// their paths in the archive, the layers often behind links. What is written
// is both at once. The archive as a whole may be compressed.
//
// An archive comes from a stranger. Nothing in it becomes a path of the host,
// every blob is stored under the digest of what was read, and what has to be
// kept in memory is bounded.
package archive

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/content"
)

// Limits of an archive, named in the errors of what exceeds them.
const (
	maxEntries = 200_000  // files, directories and links
	maxNames   = 32 << 20 // bytes of their paths together
	maxLinks   = 40       // followed from one name
)

// Names of files with a meaning.
const (
	layoutFile   = "oci-layout"
	indexFile    = "index.json"
	manifestFile = "manifest.json"
	blobDir      = "blobs/"
)

// Annotations of an index that carry the names of images.
const (
	// NameAnnotation is a full name, as in docker.io/library/busybox:latest.
	NameAnnotation = "io.containerd.image.name"
	// TagAnnotation is a tag, or whatever the archive's maker put there.
	TagAnnotation = "org.opencontainers.image.ref.name"
)

// A Store takes the blobs of an archive.
type Store interface {
	content.Provider
	content.Ingester
	Abort(ctx context.Context, ref string) error
}

// cleanName gives the path of an entry below the archive's root.
func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("path leads out of the archive: %w", errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

// Name gives an image of an archive its name from the annotations of its
// descriptor. A full name is itself; a bare tag is put behind the prefix. With
// own set, a full name outside of the prefix is no name.
func Name(annotations map[string]string, prefix string, own bool) string {
	if name := annotations[NameAnnotation]; name != "" {
		return name
	}
	tag := annotations[TagAnnotation]
	switch {
	case tag == "":
		return ""
	case !strings.ContainsAny(tag, "/:@"):
		if prefix == "" {
			return ""
		}
		return prefix + ":" + tag
	case own && !within(tag, prefix):
		return ""
	}
	return tag
}

// within reports whether name is of the repository prefix or one below it.
func within(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "/:@"))
}
