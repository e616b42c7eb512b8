// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Values in the database: times as time.MarshalBinary in UTC, sizes as signed
// varints, messages as protobuf Any, labels as a bucket of strings.

var (
	keyCreated     = []byte("createdat")
	keyUpdated     = []byte("updatedat")
	keyTarget      = []byte("target")
	keyDigest      = []byte("digest")
	keyMediaType   = []byte("mediatype")
	keySize        = []byte("size")
	keySpec        = []byte("spec")
	keyImage       = []byte("image")
	keySnapshotter = []byte("snapshotter")
	keySnapshotKey = []byte("snapshotKey")
	keySandboxID   = []byte("sandboxid")
	keySandboxer   = []byte("sandboxer")
	keyRuntime     = []byte("runtime")
	keyName        = []byte("name")
	keyOptions     = []byte("options")
	keyExtensions  = []byte("extensions")
	keyAnnotations = []byte("annotations")
	keyParent      = []byte("parent")
	keyChildren    = []byte("children")
	keyRef         = []byte("ref")
	keyExpireAt    = []byte("expireat")
	keyExpected    = []byte("expected")
)

func putTime(b *bolt.Bucket, key []byte, t time.Time) error {
	v, err := t.UTC().MarshalBinary()
	if err != nil {
		return err
	}
	return b.Put(key, v)
}

func getTime(b *bolt.Bucket, key []byte) time.Time { return timeOf(b.Get(key)) }

// timeOf is the zero time for what is none.
func timeOf(v []byte) (t time.Time) {
	if v == nil || t.UnmarshalBinary(v) != nil {
		return time.Time{}
	}
	return t
}

func putTimes(b *bolt.Bucket, created, updated time.Time) error {
	if err := putTime(b, keyCreated, created); err != nil {
		return err
	}
	return putTime(b, keyUpdated, updated)
}

func putSize(b *bolt.Bucket, n int64) error {
	return b.Put(keySize, binary.AppendVarint(nil, n))
}

func getSize(b *bolt.Bucket) int64 {
	n, _ := binary.Varint(b.Get(keySize))
	return n
}

// putMap replaces the bucket key by m; an empty value is no entry.
func putMap(b *bolt.Bucket, key []byte, m map[string]string) error {
	if b.Bucket(key) != nil {
		if err := b.DeleteBucket(key); err != nil {
			return err
		}
	}
	var sub *bolt.Bucket
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] == "" || k == "" {
			continue
		}
		if sub == nil {
			var err error
			if sub, err = b.CreateBucket(key); err != nil {
				return err
			}
		}
		if err := sub.Put([]byte(k), []byte(m[k])); err != nil {
			return err
		}
	}
	return nil
}

func getMap(b *bolt.Bucket, key []byte) map[string]string { return mapOf(b.Bucket(key)) }

// mapOf is nil without a bucket.
func mapOf(sub *bolt.Bucket) map[string]string {
	if sub == nil {
		return nil
	}
	m := map[string]string{}
	sub.ForEach(func(k, v []byte) error {
		m[string(k)] = string(v)
		return nil
	})
	return m
}

func putAny(b *bolt.Bucket, key []byte, a *anypb.Any) error {
	if a == nil {
		return b.Delete(key)
	}
	v, err := proto.Marshal(a)
	if err != nil {
		return err
	}
	return b.Put(key, v)
}

func getAny(b *bolt.Bucket, key []byte) (*anypb.Any, error) { return anyOf(key, b.Get(key)) }

// anyOf is nil without a value.
func anyOf(key, v []byte) (*anypb.Any, error) {
	if v == nil {
		return nil, nil
	}
	a := &anypb.Any{}
	if err := proto.Unmarshal(v, a); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return a, nil
}

func putAnys(b *bolt.Bucket, key []byte, m map[string]*anypb.Any) error {
	if b.Bucket(key) != nil {
		if err := b.DeleteBucket(key); err != nil {
			return err
		}
	}
	if len(m) == 0 {
		return nil
	}
	sub, err := b.CreateBucket(key)
	if err != nil {
		return err
	}
	for k, a := range m {
		if err := putAny(sub, []byte(k), a); err != nil {
			return err
		}
	}
	return nil
}

func getAnys(b *bolt.Bucket, key []byte) (map[string]*anypb.Any, error) { return anysOf(b.Bucket(key)) }

// anysOf is nil without a bucket.
func anysOf(sub *bolt.Bucket) (map[string]*anypb.Any, error) {
	if sub == nil {
		return nil, nil
	}
	m := map[string]*anypb.Any{}
	return m, sub.ForEach(func(k, _ []byte) error {
		a, err := getAny(sub, k)
		m[string(k)] = a
		return err
	})
}

func putRuntime(b *bolt.Bucket, r Runtime) error {
	sub, err := b.CreateBucketIfNotExists(keyRuntime)
	if err != nil {
		return err
	}
	if err := sub.Put(keyName, []byte(r.Name)); err != nil {
		return err
	}
	return putAny(sub, keyOptions, r.Options)
}

func getRuntime(b *bolt.Bucket) (r Runtime, err error) {
	sub := b.Bucket(keyRuntime)
	if sub == nil {
		return r, nil
	}
	r.Name = string(sub.Get(keyName))
	r.Options, err = getAny(sub, keyOptions)
	return r, err
}

// fieldSetter applies one path of a field mask.
type fieldSetter map[string]func(key string)

// apply runs the setter of every path: "labels" with an empty key,
// "labels.<key>" with the rest of the path, dots included.
func (s fieldSetter) apply(object string, paths []string) error {
	for _, p := range paths {
		name, key, sub := strings.Cut(p, ".")
		set := s[name]
		if sub {
			set = s[name+"."]
		}
		if set == nil {
			return fmt.Errorf("cannot update %q field on %s: %w", p, object, errdefs.ErrInvalidArgument)
		}
		set(key)
	}
	return nil
}

// setKey copies one entry; an empty value removes it.
func setKey[V any](dst *map[string]V, src map[string]V, key string) {
	m := maps.Clone(*dst)
	if m == nil {
		m = map[string]V{}
	}
	if v, ok := src[key]; ok {
		m[key] = v
	} else {
		delete(m, key)
	}
	*dst = m
}

// clean drops the labels that are set to nothing.
func clean(m map[string]string) map[string]string {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(_, v string) bool { return v == "" })
	return m
}
