// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

func readNode(s *bolt.Bucket, key string) (node, error) {
	if s == nil || s.Bucket([]byte(key)) == nil {
		return node{}, fmt.Errorf("snapshot %s does not exist: %w", key, errdefs.ErrNotFound)
	}
	b := s.Bucket([]byte(key))
	info, err := readInfo(b, key)
	if err != nil {
		return node{}, err
	}
	n := node{Info: info, id: idOf(b)}
	n.usage.Inodes, _ = binary.Varint(b.Get(keyInodes))
	n.usage.Size, _ = binary.Varint(b.Get(keySize))
	if info.Parent != "" {
		n.parents, err = lineage(s, info.Parent)
	}
	return n, err
}

func readInfo(b *bolt.Bucket, name string) (Info, error) {
	info := Info{Kind: kindOf(b), Name: name, Parent: string(b.Get(keyParent))}
	for key, at := range map[string]*time.Time{string(keyCreated): &info.CreatedAt, string(keyUpdated): &info.UpdatedAt} {
		if v := b.Get([]byte(key)); v != nil {
			if err := at.UnmarshalBinary(v); err != nil {
				return info, fmt.Errorf("snapshot %s: %s: %w", name, key, err)
			}
		}
	}
	labels := b.Bucket(bucketLabels)
	if labels == nil {
		return info, nil
	}
	info.Labels = make(map[string]string)
	return info, labels.ForEach(func(k, v []byte) error {
		info.Labels[string(k)] = string(v)
		return nil
	})
}

// writeNode writes the whole record and the link to its parent.
func writeNode(s, p *bolt.Bucket, n node) error {
	b, err := s.CreateBucketIfNotExists([]byte(n.Name))
	if err != nil {
		return fmt.Errorf("snapshot %q: %w: %w", n.Name, err, errdefs.ErrInvalidArgument)
	}
	values := map[string][]byte{
		string(keyID):   binary.AppendUvarint(nil, n.id),
		string(keyKind): {byte(n.Kind)},
	}
	if n.Parent != "" {
		values[string(keyParent)] = []byte(n.Parent)
	}
	if n.Kind == Committed {
		values[string(keyInodes)] = binary.AppendVarint(nil, n.usage.Inodes)
		values[string(keySize)] = binary.AppendVarint(nil, n.usage.Size)
	}
	for key, at := range map[string]time.Time{string(keyCreated): n.CreatedAt, string(keyUpdated): n.UpdatedAt} {
		if values[key], err = at.MarshalBinary(); err != nil {
			return err
		}
	}
	for k, v := range values {
		if err := b.Put([]byte(k), v); err != nil {
			return err
		}
	}
	if err := writeLabels(b, n.Labels); err != nil {
		return fmt.Errorf("snapshot %q: labels: %w", n.Name, err)
	}
	if len(n.parents) == 0 {
		return nil
	}
	return p.Put(childKey(n.parents[0], n.id), []byte(n.Name))
}

// writeLabels replaces all labels; an empty value removes its label.
func writeLabels(b *bolt.Bucket, labels map[string]string) error {
	if b.Bucket(bucketLabels) != nil {
		if err := b.DeleteBucket(bucketLabels); err != nil {
			return err
		}
	}
	if len(labels) == 0 {
		return nil
	}
	l, err := b.CreateBucket(bucketLabels)
	if err != nil {
		return err
	}
	for k, v := range labels {
		if v == "" {
			continue
		}
		if err := l.Put([]byte(k), []byte(v)); err != nil {
			return err
		}
	}
	return nil
}
