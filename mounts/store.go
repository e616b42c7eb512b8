// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/ident"
	"slipway/internal/mount"
)

// The database, in containerd's format:
//
//	v1/<namespace>/mounts/<name>/id         uvarint, names the directory
//	                            /createdat, updatedat   time.MarshalBinary
//	                            /lease
//	                            /labels/<key>
//	                            /active/<index>/{type,mp,mat}
//	                            /system/<index>/{type,source,target,options}
//	v1/<namespace>/leases/<lease>/<name>
//
// An index is one byte; options are joined with NUL. A record without system
// and active is of an activation that a crash broke off.
var (
	bucketRoot   = []byte("v1")
	bucketMounts = []byte("mounts")
	bucketLeases = []byte("leases")
	bucketLabels = []byte("labels")
	bucketActive = []byte("active")
	bucketSystem = []byte("system")

	keyID      = []byte("id")
	keyCreated = []byte("createdat")
	keyUpdated = []byte("updatedat")
	keyLease   = []byte("lease")
	keyType    = []byte("type")
	keyPoint   = []byte("mp")
	keyAt      = []byte("mat")
	keySource  = []byte("source")
	keyTarget  = []byte("target")
	keyOptions = []byte("options")
)

// record finds the bucket of an activation, nil if there is none.
func record(tx *bolt.Tx, a activation) *bolt.Bucket {
	b := tx.Bucket(bucketRoot)
	for _, p := range [][]byte{[]byte(a.ns), bucketMounts, []byte(a.name)} {
		if b == nil {
			return nil
		}
		b = b.Bucket(p)
	}
	return b
}

func notFound(a activation) error {
	return fmt.Errorf("mount activation %q: %w", a.name, errdefs.ErrNotFound)
}

// begin records an activation before anything is mounted.
func (m *Manager) begin(a activation, lease string, labels map[string]string) (id uint64, err error) {
	return id, m.bolt.Update(func(tx *bolt.Tx) error {
		root, err := tx.CreateBucketIfNotExists(bucketRoot)
		if err != nil {
			return err
		}
		if record(tx, a) != nil {
			return fmt.Errorf("mount activation %q: %w", a.name, errdefs.ErrAlreadyExists)
		}
		if id, err = root.NextSequence(); err != nil {
			return err
		}
		b, err := nest(root, []byte(a.ns), bucketMounts, []byte(a.name))
		if err != nil {
			return err
		}
		now := timeBytes(time.Now())
		values := map[*[]byte][]byte{&keyID: binary.AppendUvarint(nil, id), &keyCreated: now, &keyUpdated: now, &keyLease: []byte(lease)}
		if err := putAll(b, values); err != nil {
			return err
		}
		if err := putLabels(b, labels); err != nil || lease == "" {
			return err
		}
		l, err := nest(root, []byte(a.ns), bucketLeases, []byte(lease))
		if err != nil {
			return err
		}
		return l.Put([]byte(a.name), nil)
	})
}

func nest(b *bolt.Bucket, path ...[]byte) (_ *bolt.Bucket, err error) {
	for _, p := range path {
		if b, err = b.CreateBucketIfNotExists(p); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func putAll(b *bolt.Bucket, values map[*[]byte][]byte) error {
	for k, v := range values {
		if len(v) == 0 {
			continue
		}
		if err := b.Put(*k, v); err != nil {
			return err
		}
	}
	return nil
}

func putLabels(b *bolt.Bucket, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	l, err := b.CreateBucketIfNotExists(bucketLabels)
	if err != nil {
		return err
	}
	for k, v := range labels {
		if k == "" || v == "" {
			continue
		}
		if err := l.Put([]byte(k), []byte(v)); err != nil {
			return err
		}
	}
	return nil
}

func timeBytes(t time.Time) []byte {
	b, _ := t.UTC().MarshalBinary() // fails for odd time zones only
	return b
}

func timeOf(b []byte) (t time.Time) {
	if t.UnmarshalBinary(b) != nil {
		return time.Time{}
	}
	return t
}

// complete records what was mounted.
func (m *Manager) complete(a activation, info Info) error {
	return m.bolt.Update(func(tx *bolt.Tx) error {
		b := record(tx, a)
		active, err := b.CreateBucketIfNotExists(bucketActive)
		if err != nil {
			return err
		}
		for i, mt := range info.Active {
			sub, err := active.CreateBucket([]byte{byte(i)})
			if err != nil {
				return err
			}
			if err := putAll(sub, map[*[]byte][]byte{&keyType: []byte(mt.Type), &keyPoint: []byte(mt.Point), &keyAt: timeBytes(mt.At)}); err != nil {
				return err
			}
		}
		system, err := b.CreateBucketIfNotExists(bucketSystem)
		if err != nil {
			return err
		}
		for i, mt := range info.System {
			sub, err := system.CreateBucket([]byte{byte(i)})
			if err != nil {
				return err
			}
			if err := putAll(sub, map[*[]byte][]byte{
				&keyType: []byte(mt.Type), &keySource: []byte(mt.Source), &keyTarget: []byte(mt.Target),
				&keyOptions: []byte(strings.Join(mt.Options, "\x00")),
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// forget removes the record of an activation.
func (m *Manager) forget(a activation) error {
	return m.bolt.Remove(func(tx *bolt.Tx) error {
		b := record(tx, a)
		if b == nil {
			return nil
		}
		ns := tx.Bucket(bucketRoot).Bucket([]byte(a.ns))
		if lease := b.Get(keyLease); len(lease) > 0 && ns.Bucket(bucketLeases) != nil {
			if l := ns.Bucket(bucketLeases).Bucket(lease); l != nil {
				if err := l.Delete([]byte(a.name)); err != nil {
					return err
				}
			}
		}
		return ns.Bucket(bucketMounts).DeleteBucket([]byte(a.name))
	})
}

func (m *Manager) id(a activation) (id uint64, err error) {
	return id, m.bolt.View(func(tx *bolt.Tx) error {
		b := record(tx, a)
		if b == nil {
			return notFound(a)
		}
		id, _ = binary.Uvarint(b.Get(keyID))
		return nil
	})
}

// Info describes an activation.
func (m *Manager) Info(_ context.Context, ns ident.Namespace, name string) (info Info, err error) {
	if err := ns.Check(); err != nil {
		return info, err
	}
	a := activation{ns, name}
	return info, m.bolt.View(func(tx *bolt.Tx) error {
		b := record(tx, a)
		if b == nil || !isComplete(b) {
			return notFound(a)
		}
		info = readInfo(name, b)
		return nil
	})
}

func isComplete(b *bolt.Bucket) bool { return b.Bucket(bucketSystem) != nil }

func readInfo(name string, b *bolt.Bucket) Info {
	info := Info{Name: name}
	each(b.Bucket(bucketActive), func(_ string, sub *bolt.Bucket) {
		info.Active = append(info.Active, Active{
			Mount: mount.Mount{Type: string(sub.Get(keyType))}, Point: string(sub.Get(keyPoint)), At: timeOf(sub.Get(keyAt)),
		})
	})
	each(b.Bucket(bucketSystem), func(_ string, sub *bolt.Bucket) {
		mt := mount.Mount{Type: string(sub.Get(keyType)), Source: string(sub.Get(keySource)), Target: string(sub.Get(keyTarget))}
		if o := sub.Get(keyOptions); len(o) > 0 {
			mt.Options = strings.Split(string(o), "\x00")
		}
		info.System = append(info.System, mt)
	})
	if l := b.Bucket(bucketLabels); l != nil {
		info.Labels = map[string]string{}
		l.ForEach(func(k, v []byte) error {
			info.Labels[string(k)] = string(v)
			return nil
		})
	}
	return info
}

// each calls fn for the buckets in b, which may be nil.
func each(b *bolt.Bucket, fn func(name string, sub *bolt.Bucket)) {
	if b == nil {
		return
	}
	b.ForEachBucket(func(k []byte) error {
		fn(string(k), b.Bucket(k))
		return nil
	})
}

// List describes the activations of a namespace, by name.
func (m *Manager) List(_ context.Context, ns ident.Namespace) (all []Info, err error) {
	if err := ns.Check(); err != nil {
		return nil, err
	}
	return all, m.bolt.View(func(tx *bolt.Tx) error {
		if root := tx.Bucket(bucketRoot); root != nil && root.Bucket([]byte(ns)) != nil {
			each(root.Bucket([]byte(ns)).Bucket(bucketMounts), func(name string, b *bolt.Bucket) {
				if isComplete(b) {
					all = append(all, readInfo(name, b))
				}
			})
		}
		return nil
	})
}

// stored is a record as a whole.
type stored struct {
	activation
	id       uint64
	lease    string
	complete bool
	info     Info
}

func (m *Manager) all() (list []stored, err error) {
	return list, m.bolt.View(func(tx *bolt.Tx) error {
		each(tx.Bucket(bucketRoot), func(ns string, b *bolt.Bucket) {
			each(b.Bucket(bucketMounts), func(name string, b *bolt.Bucket) {
				id, _ := binary.Uvarint(b.Get(keyID))
				list = append(list, stored{
					activation{ident.Namespace(ns), name}, id, string(b.Get(keyLease)), isComplete(b), readInfo(name, b),
				})
			})
		})
		return nil
	})
}

// sync makes the records and the mounts agree again after a crash or a
// restart of the host.
func (m *Manager) sync() error {
	list, err := m.all()
	if err != nil {
		return err
	}
	known, errs := map[string]bool{}, []error{}
	for _, s := range list {
		if s.complete && s.mounted() {
			known[strconv.FormatUint(s.id, 10)] = true
			continue
		}
		errs = append(errs, m.undo(s.id), m.forget(s.activation))
	}
	entries, err := os.ReadDir(m.points())
	errs = append(errs, err)
	for _, e := range entries {
		if id, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && !known[e.Name()] {
			errs = append(errs, m.undo(id))
		}
	}
	return errors.Join(errs...)
}

func (s stored) mounted() bool {
	for _, a := range s.info.Active {
		if ok, err := mountinfo.Mounted(a.Point); err != nil || !ok {
			return false
		}
	}
	return true
}
