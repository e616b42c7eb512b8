// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/database"
	"slipway/internal/filter"
)

// tree is the database of one snapshotter, metadata.db, in containerd's
// format:
//
//	v1/snapshots/<name>/  id uvarint, kind byte, parent name,
//	                      createdat and updatedat time.MarshalBinary, labels/,
//	                      and once committed inodes and size as varint
//	v1/parents            uvarint(parent id) 0x00 uvarint(child id) → child name
//
// A snapshot keeps its id when a commit renames it. An id that was recorded is
// never used for another.
type tree struct{ db *database.DB }

var (
	bucketVersion   = []byte("v1")
	bucketSnapshots = []byte("snapshots")
	bucketParents   = []byte("parents")
	bucketLabels    = []byte("labels")
	keyID           = []byte("id")
	keyKind         = []byte("kind")
	keyParent       = []byte("parent")
	keyCreated      = []byte("createdat")
	keyUpdated      = []byte("updatedat")
	keyInodes       = []byte("inodes")
	keySize         = []byte("size")
)

// node is a snapshot with what a driver needs to know of its ancestors.
type node struct {
	Info
	id      uint64
	parents []uint64 // nearest first
	usage   Usage    // stored, of a committed one
}

func openTree(path string) (*tree, error) {
	db, err := database.Open(path, 0o600, bolt.Options{
		Timeout: 10 * time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("snapshot database %s: %w", path, err)
	}
	return &tree{db}, nil
}

// view and update run fn in a transaction with the two buckets, which are nil
// in a view of an empty database.
func (t *tree) view(fn func(snapshots, parents *bolt.Bucket) error) error {
	return t.db.View(func(tx *bolt.Tx) error {
		v1 := tx.Bucket(bucketVersion)
		if v1 == nil {
			return fn(nil, nil)
		}
		return fn(v1.Bucket(bucketSnapshots), v1.Bucket(bucketParents))
	})
}

func (t *tree) update(fn func(snapshots, parents *bolt.Bucket) error) error {
	return write(t.db.Update, fn)
}

// shrink is update for what adds nothing; it works on a full disk too.
func (t *tree) shrink(fn func(snapshots, parents *bolt.Bucket) error) error {
	return write(t.db.Remove, fn)
}

func write(run func(func(*bolt.Tx) error) error, fn func(snapshots, parents *bolt.Bucket) error) error {
	return run(func(tx *bolt.Tx) error {
		v1, err := tx.CreateBucketIfNotExists(bucketVersion)
		if err != nil {
			return err
		}
		s, err := v1.CreateBucketIfNotExists(bucketSnapshots)
		if err != nil {
			return err
		}
		p, err := v1.CreateBucketIfNotExists(bucketParents)
		if err != nil {
			return err
		}
		return fn(s, p)
	})
}

func (t *tree) get(key string) (n node, err error) {
	err = t.view(func(s, _ *bolt.Bucket) error {
		n, err = readNode(s, key)
		return err
	})
	return n, err
}

// create adds a snapshot. place runs inside the transaction, with the new id:
// it moves prepared files to where the id says, and nothing slower.
func (t *tree) create(info Info, place func(node) error) (n node, err error) {
	err = t.update(func(s, p *bolt.Bucket) error {
		if s.Bucket([]byte(info.Name)) != nil {
			return fmt.Errorf("snapshot %q: %w", info.Name, errdefs.ErrAlreadyExists)
		}
		n = node{Info: info}
		if info.Parent != "" {
			if n.parents, err = lineage(s, info.Parent); err != nil {
				return err
			}
		}
		if n.id, err = s.NextSequence(); err != nil {
			return err
		}
		n.CreatedAt = time.Now().UTC()
		n.UpdatedAt = n.CreatedAt
		if err := writeNode(s, p, n); err != nil {
			return err
		}
		return place(n)
	})
	return n, err
}

// lineage lists the ids of a parent and its ancestors, nearest first.
func lineage(s *bolt.Bucket, parent string) ([]uint64, error) {
	var ids []uint64
	for name := parent; name != ""; {
		b := s.Bucket([]byte(name))
		if b == nil {
			return nil, fmt.Errorf("parent snapshot %s does not exist: %w", name, errdefs.ErrNotFound)
		}
		if kindOf(b) != Committed {
			return nil, fmt.Errorf("parent %q is not committed snapshot: %w", name, errdefs.ErrInvalidArgument)
		}
		ids = append(ids, idOf(b))
		name = string(b.Get(keyParent))
	}
	return ids, nil
}

func notActive(key string) error {
	return fmt.Errorf("snapshot %v is not active: %w", key, errdefs.ErrFailedPrecondition)
}

func nameTaken(name string) error {
	return fmt.Errorf("committed snapshot %v: %w", name, errdefs.ErrAlreadyExists)
}

// commit renames the active snapshot sealed to name and makes it immutable.
// place runs inside the transaction: it moves files, and nothing slower.
func (t *tree) commit(name string, sealed node, usage Usage, opts CommitOpts, place func() error) error {
	key := sealed.Name
	return t.update(func(s, p *bolt.Bucket) error {
		if s.Bucket([]byte(name)) != nil {
			return nameTaken(name)
		}
		n, err := readNode(s, key)
		if err != nil {
			return err
		}
		if n.Kind != Active {
			return notActive(key)
		}
		if n.id != sealed.id {
			return fmt.Errorf("snapshot %v was replaced while it was committed: %w", key, errdefs.ErrNotFound)
		}
		if err := rebase(s, &n, opts.Parent); err != nil {
			return err
		}
		if err := s.DeleteBucket([]byte(key)); err != nil {
			return err
		}
		n.Name, n.Kind, n.Labels, n.usage = name, Committed, opts.Labels, usage
		n.CreatedAt = time.Now().UTC()
		n.UpdatedAt = n.CreatedAt
		if err := writeNode(s, p, n); err != nil {
			return err
		}
		return place()
	})
}

// rebase puts a snapshot that has no parent onto one.
func rebase(s *bolt.Bucket, n *node, parent string) (err error) {
	if parent == "" || parent == n.Parent {
		return nil
	}
	if n.Parent != "" {
		return fmt.Errorf("snapshot %v has parent %v, it cannot be put onto %v: %w", n.Name, n.Parent, parent, errdefs.ErrFailedPrecondition)
	}
	n.parents, err = lineage(s, parent)
	n.Parent = parent
	return err
}

func (t *tree) remove(key string) (n node, err error) {
	err = t.shrink(func(s, p *bolt.Bucket) error {
		if n, err = readNode(s, key); err != nil {
			return err
		}
		prefix := childKey(n.id, 0)[:len(childKey(n.id, 0))-1]
		if k, _ := p.Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
			return fmt.Errorf("cannot remove snapshot with child: %w", errdefs.ErrFailedPrecondition)
		}
		if len(n.parents) > 0 {
			if err := p.Delete(childKey(n.parents[0], n.id)); err != nil {
				return err
			}
		}
		return s.DeleteBucket([]byte(key))
	})
	return n, err
}

// setLabels replaces labels, all of them or those that fields name.
func (t *tree) setLabels(info Info, fields []string) (n node, err error) {
	err = t.update(func(s, p *bolt.Bucket) error {
		if n, err = readNode(s, info.Name); err != nil {
			return err
		}
		if n.Labels, err = mergeLabels(n.Labels, info.Labels, fields); err != nil {
			return fmt.Errorf("snapshot %v: %w", info.Name, err)
		}
		n.UpdatedAt = time.Now().UTC()
		return writeNode(s, p, n)
	})
	return n, err
}

func mergeLabels(old, update map[string]string, fields []string) (map[string]string, error) {
	if len(fields) == 0 {
		return update, nil
	}
	for _, f := range fields {
		key, one := strings.CutPrefix(f, "labels.")
		switch {
		case f == "labels":
			old = update
		case !one:
			return nil, fmt.Errorf("cannot update %q field: %w", f, errdefs.ErrInvalidArgument)
		default:
			if old == nil {
				old = make(map[string]string)
			}
			old[key] = update[key]
		}
	}
	return old, nil
}

// walk calls fn outside of any transaction.
func (t *tree) walk(ctx context.Context, fn func(Info) error, decorate func(*Info, uint64), filters []string) error {
	match, err := filter.Parse(filters...)
	if err != nil {
		return err
	}
	var all []Info
	err = t.view(func(s, _ *bolt.Bucket) error {
		if s == nil {
			return nil
		}
		return s.ForEachBucket(func(k []byte) error {
			info, err := readInfo(s.Bucket(k), string(k))
			if decorate != nil {
				decorate(&info, idOf(s.Bucket(k)))
			}
			if err == nil && match(info.Field) {
				all = append(all, info)
			}
			return err
		})
	})
	for _, info := range all {
		if err != nil || ctx.Err() != nil {
			break
		}
		err = fn(info)
	}
	if err != nil {
		return err
	}
	return ctx.Err()
}

// nodes calls fn with the kinds and ids of all snapshots, while none comes up
// or changes.
func (t *tree) nodes(fn func([]node) error) error {
	return t.shrink(func(s, _ *bolt.Bucket) error {
		var all []node
		if err := s.ForEachBucket(func(k []byte) error {
			b := s.Bucket(k)
			all = append(all, node{Info: Info{Kind: kindOf(b)}, id: idOf(b)})
			return nil
		}); err != nil {
			return err
		}
		return fn(all)
	})
}

// Field gives a filter "kind", "name", "parent" and "labels.<key>".
func (i Info) Field(path []string) (string, bool) {
	switch path[0] {
	case "kind":
		return i.Kind.String(), len(path) == 1
	case "name":
		return i.Name, len(path) == 1
	case "parent":
		return i.Parent, len(path) == 1 && i.Parent != ""
	case "labels":
		return filter.Labels(i.Labels, path[1:])
	}
	return "", false
}

func kindOf(b *bolt.Bucket) Kind {
	if v := b.Get(keyKind); len(v) == 1 {
		return Kind(v[0])
	}
	return 0
}

func idOf(b *bolt.Bucket) uint64 {
	id, _ := binary.Uvarint(b.Get(keyID))
	return id
}

func childKey(parent, child uint64) []byte {
	k := binary.AppendUvarint(nil, parent)
	return binary.AppendUvarint(append(k, 0), child)
}
