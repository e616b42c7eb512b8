// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"
)

// Lists are read as records: what the database holds, where it lies. A record
// of a thousand costs no more than to find it, and its spec goes to a client
// without being decoded.

// A ContainerRecord is a container in the database. Its bytes are there only
// until the function that got it returns, and must not be changed.
type ContainerRecord struct {
	ID, Image, Snapshotter, SnapshotKey, Sandbox []byte
	Runtime                                      RuntimeRecord
	Spec                                         []byte // an encoded Any, nil if there is none
	Labels, Extensions                           Pairs  // these are encoded Anys
	CreatedAt, UpdatedAt                         time.Time
}

// A RuntimeRecord is a Runtime in the database.
type RuntimeRecord struct {
	Name    []byte
	Options []byte // an encoded Any, nil if there is none
}

// An ImageRecord is an image in the database, as a ContainerRecord is a
// container.
type ImageRecord struct {
	Name                 []byte
	MediaType, Digest    []byte
	Size                 int64
	Annotations, Labels  Pairs
	CreatedAt, UpdatedAt time.Time
}

// Pairs are keys with values; the zero value has none.
type Pairs struct{ b *bolt.Bucket }

// Each calls fn for each pair, by key.
func (p Pairs) Each(fn func(k, v []byte)) {
	if p.b != nil {
		p.b.ForEach(func(k, v []byte) error {
			fn(k, v)
			return nil
		})
	}
}

// field is the value whose key is the rest of a filter's path.
func (p Pairs) field(rest []string) (string, bool) {
	if p.b == nil {
		return "", false
	}
	v := p.b.Get([]byte(strings.Join(rest, ".")))
	return string(v), v != nil
}

// each calls fn for the buckets in b, which may be nil.
func each(b *bolt.Bucket, fn func(b *bolt.Bucket, name []byte) error) error {
	if b == nil {
		return nil
	}
	return b.ForEachBucket(func(name []byte) error { return fn(b.Bucket(name), name) })
}

// containerRecord reads a bucket in one pass, since every search costs as much
// as a copy of the value.
func containerRecord(b *bolt.Bucket, id []byte) (r ContainerRecord, err error) {
	r.ID = id
	err = b.ForEach(func(k, v []byte) (err error) {
		switch {
		case bytes.Equal(k, keyImage):
			r.Image = v
		case bytes.Equal(k, keySnapshotter):
			r.Snapshotter = v
		case bytes.Equal(k, keySnapshotKey):
			r.SnapshotKey = v
		case bytes.Equal(k, keySandboxID):
			r.Sandbox = v
		case bytes.Equal(k, keySpec):
			r.Spec, err = v, checkAny(k, v)
		case bytes.Equal(k, keyCreated):
			r.CreatedAt = timeOf(v)
		case bytes.Equal(k, keyUpdated):
			r.UpdatedAt = timeOf(v)
		case bytes.Equal(k, bucketLabels):
			r.Labels.b = b.Bucket(k)
		case bytes.Equal(k, keyExtensions):
			r.Extensions.b = b.Bucket(k)
		case bytes.Equal(k, keyRuntime):
			r.Runtime, err = runtimeRecord(b.Bucket(k))
		}
		return err
	})
	r.Extensions.Each(func(k, v []byte) {
		if err == nil {
			err = checkAny(k, v)
		}
	})
	if err != nil {
		return r, fmt.Errorf("container %s: %w", id, err)
	}
	return r, nil
}

func runtimeRecord(b *bolt.Bucket) (r RuntimeRecord, err error) {
	if b == nil {
		return r, nil
	}
	return r, b.ForEach(func(k, v []byte) (err error) {
		switch {
		case bytes.Equal(k, keyName):
			r.Name = v
		case bytes.Equal(k, keyOptions):
			r.Options, err = v, checkAny(k, v)
		}
		return err
	})
}

// checkAny fails for what would make the list that it is a part of unreadable.
func checkAny(key, v []byte) error {
	for len(v) > 0 {
		_, _, n := protowire.ConsumeField(v)
		if n < 0 {
			return fmt.Errorf("%s: %w", key, protowire.ParseError(n))
		}
		v = v[n:]
	}
	return nil
}

func imageRecord(b *bolt.Bucket, name []byte) (r ImageRecord) {
	r.Name = name
	b.ForEach(func(k, v []byte) error {
		switch {
		case bytes.Equal(k, keyTarget):
			r.target(b.Bucket(k))
		case bytes.Equal(k, keyAnnotations):
			r.Annotations.b = b.Bucket(k)
		case bytes.Equal(k, bucketLabels):
			r.Labels.b = b.Bucket(k)
		case bytes.Equal(k, keyCreated):
			r.CreatedAt = timeOf(v)
		case bytes.Equal(k, keyUpdated):
			r.UpdatedAt = timeOf(v)
		}
		return nil
	})
	return r
}

func (r *ImageRecord) target(b *bolt.Bucket) {
	if b == nil {
		return
	}
	b.ForEach(func(k, v []byte) error {
		switch {
		case bytes.Equal(k, keyMediaType):
			r.MediaType = v
		case bytes.Equal(k, keyDigest):
			r.Digest = v
		case bytes.Equal(k, keySize):
			r.Size, _ = binary.Varint(v)
		}
		return nil
	})
}

// container copies the record out of the database.
func (r ContainerRecord) container() (c Container, err error) {
	c = Container{
		ID: string(r.ID), Image: string(r.Image), Snapshotter: string(r.Snapshotter), SnapshotKey: string(r.SnapshotKey),
		Sandbox: string(r.Sandbox), Labels: mapOf(r.Labels.b), CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	c.Runtime.Name = string(r.Runtime.Name)
	if c.Spec, err = anyOf(keySpec, r.Spec); err != nil {
		return c, fmt.Errorf("container %s: %w", c.ID, err)
	}
	if c.Runtime.Options, err = anyOf(keyOptions, r.Runtime.Options); err != nil {
		return c, fmt.Errorf("container %s: %w", c.ID, err)
	}
	c.Extensions, err = anysOf(r.Extensions.b)
	return c, err
}

// image copies the record out of the database.
func (r ImageRecord) image() Image {
	return Image{
		Name: string(r.Name), Labels: mapOf(r.Labels.b), CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		Target: ocispec.Descriptor{
			MediaType: string(r.MediaType), Digest: digest.Digest(r.Digest), Size: r.Size, Annotations: mapOf(r.Annotations.b),
		},
	}
}

func (r ContainerRecord) field(path []string) (string, bool) {
	switch path[0] {
	case "id":
		return string(r.ID), len(path) == 1
	case "runtime":
		return string(r.Runtime.Name), len(path) == 2 && path[1] == "name" && len(r.Runtime.Name) > 0
	case "image":
		return string(r.Image), len(path) == 1 && len(r.Image) > 0
	case "labels":
		return r.Labels.field(path[1:])
	}
	return "", false
}

func (r ImageRecord) field(path []string) (string, bool) {
	switch path[0] {
	case "name":
		return string(r.Name), len(path) == 1
	case "target":
		switch strings.Join(path[1:], ".") {
		case "digest":
			return string(r.Digest), true
		case "mediatype":
			return string(r.MediaType), true
		}
	case "labels":
		return r.Labels.field(path[1:])
	case "annotations":
		return r.Annotations.field(path[1:])
	}
	return "", false
}
