// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"slipway/internal/ident"
)

// kind is a kind of object that refers to others or is referred to.
type kind uint8

const (
	kindContent kind = iota
	kindSnapshot
	kindContainer
	kindImage
	kindLease
	kindSandbox
	kindIngest
)

// node is one object. The key of a snapshot is <snapshotter>/<key>.
type node struct {
	kind kind
	ns   ident.Namespace
	key  string
}

// Labels that steer collections.
const (
	labelRoot        = "containerd.io/gc.root"
	labelExpire      = "containerd.io/gc.expire"
	labelFlat        = "containerd.io/gc.flat"
	labelRef         = "containerd.io/gc.ref."
	labelRefContent  = "containerd.io/gc.ref.content"
	labelRefSnapshot = "containerd.io/gc.ref.snapshot."
	labelRefImage    = "containerd.io/gc.ref.image"
	labelBackRef     = "containerd.io/gc.bref."
	labelCondRef     = "containerd.io/gc.cond.snapshot"
	labelUsedAt      = "containerd.io/gc.cond.value-usedat"
)

// find gives the bucket of an object, nil if it does not exist.
func (n node) find(tx *bolt.Tx) *bolt.Bucket {
	key := []byte(n.key)
	switch n.kind {
	case kindContent:
		return bucket(tx, n.ns, bucketContent, bucketBlobs, key)
	case kindIngest:
		return bucket(tx, n.ns, bucketContent, bucketIngests, key)
	case kindSnapshot:
		sn, k, _ := strings.Cut(n.key, "/")
		return bucket(tx, n.ns, bucketSnapshots, []byte(sn), []byte(k))
	case kindContainer:
		return bucket(tx, n.ns, bucketContainers, key)
	case kindImage:
		return bucket(tx, n.ns, bucketImages, key)
	case kindLease:
		return bucket(tx, n.ns, bucketLeases, key)
	case kindSandbox:
		return bucket(tx, n.ns, bucketSandboxes, key)
	}
	return nil
}

// refs calls emit for every object that n, stored in b, refers to.
func (n node) refs(b *bolt.Bucket, emit func(node)) {
	switch n.kind {
	case kindImage:
		if t := b.Bucket(keyTarget); t != nil {
			emit(node{kindContent, n.ns, string(t.Get(keyDigest))})
		}
	case kindContainer:
		if sn, key := b.Get(keySnapshotter), b.Get(keySnapshotKey); len(sn) > 0 && len(key) > 0 {
			emit(node{kindSnapshot, n.ns, string(sn) + "/" + string(key)})
		}
	case kindSnapshot:
		if parent := b.Get(keyParent); parent != nil {
			sn, _, _ := strings.Cut(n.key, "/")
			emit(node{kindSnapshot, n.ns, sn + "/" + string(parent)})
		}
	case kindIngest:
		if d := b.Get(keyExpected); d != nil {
			emit(node{kindContent, n.ns, string(d)})
		}
	case kindLease:
		for _, r := range leaseResources(b) {
			emit(r.node(n.ns))
		}
	}
	eachLabel(b, func(k, v string) {
		if to, ok := refOf(k, v, n.ns); ok {
			emit(to)
		}
	})
}

func (r Resource) node(ns ident.Namespace) node {
	switch r.Type {
	case "content":
		return node{kindContent, ns, r.ID}
	case "images":
		return node{kindImage, ns, r.ID}
	case "ingests":
		return node{kindIngest, ns, r.ID}
	}
	return node{kindSnapshot, ns, strings.TrimPrefix(r.Type, "snapshots/") + "/" + r.ID}
}

func eachLabel(b *bolt.Bucket, fn func(k, v string)) {
	if l := b.Bucket(bucketLabels); l != nil {
		l.ForEach(func(k, v []byte) error {
			fn(string(k), string(v))
			return nil
		})
	}
}

// refOf reads a label as a reference.
func refOf(k, v string, ns ident.Namespace) (node, bool) {
	if rest, ok := strings.CutPrefix(k, labelRefContent); ok && separated(rest) {
		return node{kindContent, ns, v}, true
	}
	if sn, ok := strings.CutPrefix(k, labelRefSnapshot); ok {
		return node{kindSnapshot, ns, trimSuffix(sn) + "/" + v}, true
	}
	if rest, ok := strings.CutPrefix(k, labelRefImage); ok && separated(rest) {
		return node{kindImage, ns, v}, true
	}
	return node{}, false
}

// separated accepts the free part of a label, which sets several apart.
func separated(rest string) bool { return rest == "" || rest[0] == '.' || rest[0] == '/' }

func trimSuffix(s string) string {
	name, _, _ := strings.Cut(s, "/")
	return name
}

// backRefOf reads a label as a reference in the other direction: the labelled
// object lives while the named one does.
func backRefOf(k, v string, ns ident.Namespace) (node, bool) {
	rest, ok := strings.CutPrefix(k, labelBackRef)
	if !ok {
		return node{}, false
	}
	for prefix, kind := range map[string]kind{"container": kindContainer, "content": kindContent, "image": kindImage} {
		if tail, ok := strings.CutPrefix(rest, prefix); ok && separated(tail) {
			return node{kind, ns, v}, true
		}
	}
	if sn, ok := strings.CutPrefix(rest, "snapshot."); ok {
		return node{kindSnapshot, ns, trimSuffix(sn) + "/" + v}, true
	}
	return node{}, false
}

// Refers reports whether an object of a namespace refers by a label to what is
// kept elsewhere: resource is the last part of containerd.io/gc.ref.<resource>,
// to which a free part may be appended.
func (db *DB) Refers(ns ident.Namespace, resource, name string) (yes bool, err error) {
	return yes, db.view(ns, func(tx *bolt.Tx) error {
		eachNode(tx, func(n node, b *bolt.Bucket) {
			if n.ns != ns || yes {
				return
			}
			eachLabel(b, func(k, v string) {
				rest, ok := strings.CutPrefix(k, labelRef+resource)
				yes = yes || ok && separated(rest) && v == name
			})
		})
		return nil
	})
}

// condition is a back reference that counts only while one of the conditions
// in when is met: usedat<age or usedat>age, separated by commas.
type condition struct {
	from node
	when string
}

// condRefOf reads a label of an image or blob as a conditional reference from
// a snapshot: its value is <conditions>|<key of the snapshot>.
func condRefOf(from node, k, v string) (to node, c condition, ok bool) {
	sn, ok := strings.CutPrefix(k, labelCondRef)
	when, key, both := strings.Cut(v, "|")
	if !ok || !both || from.kind != kindImage && from.kind != kindContent {
		return node{}, condition{}, false
	}
	return node{kindSnapshot, from.ns, trimSuffix(strings.TrimLeft(sn, "./")) + "/" + key}, condition{from, when}, true
}

// met looks at when the snapshot stored in b was used.
func (c condition) met(b *bolt.Bucket, now time.Time) bool {
	used, err := time.Parse(time.RFC3339, getMap(b, bucketLabels)[labelUsedAt])
	if err != nil {
		return false
	}
	for when := range strings.SplitSeq(c.when, ",") {
		test, ok := strings.CutPrefix(when, "usedat")
		if !ok || test == "" {
			continue
		}
		limit, err := time.ParseDuration(test[1:])
		age := now.Sub(used)
		if err == nil && (test[0] == '<' && age < limit || test[0] == '>' && age > limit) {
			return true
		}
	}
	return false
}

// root reports whether n lives without being referred to, and doomed whether
// a collection may remove it at all: only content, snapshots, ingests, and
// the images and leases that expire are ever removed.
func (n node) root(b *bolt.Bucket, now time.Time) (root, removable bool) {
	labels := getMap(b, bucketLabels)
	expire, expires := labels[labelExpire]
	if expires {
		at, err := time.Parse(time.RFC3339, expire)
		expires = err == nil
		if expires && at.After(now) {
			return true, true
		}
	}
	switch n.kind {
	case kindContent, kindSnapshot:
		return labels[labelRoot] != "", true
	case kindImage, kindLease:
		return !expires, expires
	case kindIngest:
		at := getTime(b, keyExpireAt)
		return !at.IsZero() && at.After(now), true
	}
	return true, false
}
