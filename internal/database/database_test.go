// SPDX-License-Identifier: Apache-2.0

package database

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"slipway/test/smalldisk"
)

var all = []byte("all")

func open(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(filepath.Join(dir, "test.db"), 0o600, bolt.Options{NoFreelistSync: true, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func key(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

// add makes a record, a bucket as those of the metadata are.
func add(db *DB, i, size int) error {
	return db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(all)
		if err != nil {
			return err
		}
		if b, err = b.CreateBucket(key(i)); err != nil {
			return err
		}
		return b.Put([]byte("value"), bytes.Repeat([]byte("v"), size))
	})
}

// fill adds records, to a disk that is full or not, until there is no room.
func fill(t *testing.T, db *DB, from, size int) (n int) {
	t.Helper()
	for n = from; ; n++ {
		err := add(db, n, size)
		if errors.Is(err, unix.ENOSPC) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecordsAreRemovedFromAFullDisk(t *testing.T) {
	for _, fsType := range []string{"tmpfs", "ext4"} {
		for claim, remove := range map[string]func(db *DB, n int) error{
			"one by one": func(db *DB, n int) error {
				for i := range n {
					if err := db.Remove(func(tx *bolt.Tx) error { return tx.Bucket(all).DeleteBucket(key(i)) }); err != nil {
						return err
					}
				}
				return nil
			},
			"every second at once, then the rest": func(db *DB, n int) error {
				for first := range 2 {
					if err := db.Remove(func(tx *bolt.Tx) error {
						for i := first; i < n; i += 2 {
							if err := tx.Bucket(all).DeleteBucket(key(i)); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						return err
					}
				}
				return nil
			},
		} {
			for _, size := range []int{20, 900, 9000} {
				t.Run(fsType+", "+claim, func(t *testing.T) {
					dir := smalldisk.New(t, fsType, 16<<20)
					db := open(t, dir)
					for i := range 300 {
						if err := add(db, i, size); err != nil {
							t.Fatal(err)
						}
					}
					smalldisk.Fill(t, dir)
					n := fill(t, db, 300, size)
					if err := remove(db, n); err != nil {
						t.Fatalf("of %d records: %v", n, err)
					}
					// What was removed is room for others.
					if err := add(db, 0, size); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

func TestADatabaseOpensOnAFullDisk(t *testing.T) {
	dir := smalldisk.New(t, "tmpfs", 4<<20)
	plain, err := bolt.Open(filepath.Join(dir, "test.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain.Close()
	free := smalldisk.Fill(t, dir)
	db := open(t, dir)
	if err := add(db, 0, 1); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	free()
	if err := add(db, 0, 1); err != nil {
		t.Error(err)
	}
}
