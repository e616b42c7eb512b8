// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"slipway/content"
	"slipway/event"
)

// openAlone opens a database without snapshotters.
func openAlone(t *testing.T, dir string) *DB {
	t.Helper()
	local, err := content.Open(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(filepath.Join(dir, "meta.db"), Options{}, local, nil, event.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// together runs the functions as calls of share that all wait for the same
// transaction, and returns their errors.
func together(t *testing.T, db *DB, fns ...func(*tx) error) []error {
	t.Helper()
	busy, release := make(chan struct{}), make(chan struct{})
	var calls sync.WaitGroup
	calls.Go(func() {
		db.update(t.Context(), "x", func(*tx) error {
			close(busy)
			<-release
			return nil
		})
	})
	<-busy
	errs := make([]error, len(fns))
	for i, fn := range fns {
		calls.Go(func() {
			defer func() { // as the daemon does for a request
				if r := recover(); r != nil {
					errs[i] = fmt.Errorf("panic: %v", r)
				}
			}()
			errs[i] = db.share(t.Context(), "x", fn)
		})
		for n := 0; n <= i; runtime.Gosched() { // in this order
			db.group.mu.Lock()
			n = len(db.group.waiting)
			db.group.mu.Unlock()
		}
	}
	close(release)
	calls.Wait()
	return errs
}

// putKey writes a key and notes the transaction that did.
func putKey(key string, ids map[string]int) func(*tx) error {
	return func(tx *tx) error {
		b, err := makeBucket(tx.Tx, tx.ns, bucketLabels)
		if err != nil {
			return err
		}
		ids[key] = tx.ID()
		return b.Put([]byte(key), []byte("v"))
	}
}

func TestCallsThatWaitShareATransaction(t *testing.T) {
	db := openAlone(t, t.TempDir())
	ids := map[string]int{}
	var fns []func(*tx) error
	for i := range 8 {
		fns = append(fns, putKey(fmt.Sprint("k", i), ids))
	}
	if err := errors.Join(together(t, db, fns...)...); err != nil {
		t.Fatal(err)
	}
	for k, id := range ids {
		if id != ids["k0"] {
			t.Errorf("%s was written by transaction %d, k0 by %d", k, id, ids["k0"])
		}
	}
	if err := db.share(t.Context(), "x", putKey("alone", ids)); err != nil || ids["alone"] == ids["k0"] {
		t.Errorf("%v, transaction %d", err, ids["alone"])
	}
}

func TestCallThatFailsTakesNoOtherWithIt(t *testing.T) {
	dir := t.TempDir()
	db := openAlone(t, dir)
	ids, no := map[string]int{}, errors.New("no")
	errs := together(t, db, putKey("before", ids), func(tx *tx) error {
		putKey("half", ids)(tx)
		return no
	}, putKey("after", ids))
	if errs[0] != nil || !errors.Is(errs[1], no) || errs[2] != nil {
		t.Fatalf("errors %v", errs)
	}
	db.Close()
	labels, err := openAlone(t, dir).Namespaces().Labels(t.Context(), "x")
	if err != nil || len(labels) != 2 || labels["before"] == "" || labels["after"] == "" {
		t.Errorf("on disk: %v, %v", labels, err)
	}
}

func TestPanicLeavesNobodyWaiting(t *testing.T) {
	db := openAlone(t, t.TempDir())
	ids := map[string]int{}
	for i, err := range together(t, db, putKey("a", ids), func(*tx) error { panic("wrong") }, putKey("b", ids)) {
		if err == nil {
			t.Errorf("call %d of a transaction that was rolled back succeeded", i)
		}
	}
	if err := db.share(t.Context(), "x", putKey("c", ids)); err != nil {
		t.Error(err)
	}
}

func TestCallsOfAClosedDatabaseFail(t *testing.T) {
	db := openAlone(t, t.TempDir())
	db.Close()
	if err := db.share(t.Context(), "x", putKey("k", map[string]int{})); err == nil {
		t.Error("written")
	}
}
