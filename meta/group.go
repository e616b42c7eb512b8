// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/ident"
)

// group is the calls of share that wait for the database. The first of them
// takes all that have come by the time that it has it.
type group struct {
	mu      sync.Mutex
	waiting []*shared
}

// shared is one call of share.
type shared struct {
	ns   ident.Namespace
	fn   func(*tx) error
	tx   *tx
	err  error
	done chan struct{} // closed by the one that took the call
}

// join reports whether the call is the first to wait.
func (g *group) join(c *shared) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, c)
	return len(g.waiting) == 1
}

func (g *group) take() []*shared {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := g.waiting
	g.waiting = nil
	return all
}

// share is update that may be one transaction with other calls of share that
// come while the database is busy: a transaction waits for the disk twice,
// whatever is in it. fn may be run more than once and must not change anything
// but the transaction and what it sets anew each time.
func (db *DB) share(ctx context.Context, ns ident.Namespace, fn func(*tx) error) error {
	if err := checkNamespace(ns); err != nil {
		return err
	}
	c := &shared{ns: ns, fn: fn, done: make(chan struct{})}
	if db.group.join(c) {
		db.runGroup()
	}
	<-c.done
	if c.err != nil {
		return badKey(c.err)
	}
	db.committed(ctx, c.tx)
	return nil
}

// runGroup runs all calls that wait. If one of them fails, each is run alone.
func (db *DB) runGroup() {
	var calls []*shared
	ended := 0
	defer func() { // a panic, which is the caller's, leaves nobody waiting
		for _, c := range calls[ended:] {
			c.err = fmt.Errorf("another call of the same transaction has panicked: %w", errdefs.ErrInternal)
			close(c.done)
		}
	}()
	err := db.bolt.Update(func(b *bolt.Tx) error {
		calls = db.group.take()
		return db.runAll(b, calls)
	})
	if calls == nil { // the database is closed
		calls = db.group.take()
	}
	for _, c := range calls {
		if c.err = err; err != nil && len(calls) > 1 {
			c.err = db.bolt.Update(func(b *bolt.Tx) error { return db.runAll(b, []*shared{c}) })
		}
		close(c.done)
		ended++
	}
}

func (db *DB) runAll(b *bolt.Tx, calls []*shared) error {
	for _, c := range calls {
		c.tx = &tx{Tx: b, ns: c.ns}
		if err := c.fn(c.tx); err != nil {
			return err
		}
	}
	for _, c := range calls {
		db.note(c.tx)
	}
	return nil
}
