// SPDX-License-Identifier: Apache-2.0

// Package database opens bolt databases from which records can be removed
// although the disk is full.
//
// bolt changes no page in place: a transaction writes new pages and frees the
// old ones for later transactions. So a removal needs room too, for as many
// pages as it changes, before it gives any back. The reserve is that room:
// blocks of the file beyond the pages in use, allocated ahead.
package database

import (
	"errors"
	"fmt"
	"math"
	"os"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// DB is a bolt database with a reserve.
type DB struct {
	*bolt.DB
	file     *os.File
	reserved int64 // how much of the file has blocks; of the writing transaction
}

// Open is bolt.Open. The database opens without its reserve if the disk is
// full by then.
func Open(path string, mode os.FileMode, opts bolt.Options) (*DB, error) {
	db := &DB{}
	opts.OpenFile = func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
		f, err = os.OpenFile(name, flag, perm)
		db.file = f
		return f, err
	}
	var err error
	if db.DB, err = bolt.Open(path, mode, &opts); err != nil {
		return nil, err
	}
	if err := db.View(db.reserve); err != nil && !full(err) {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Update runs fn in a transaction that may add. It fails without having run fn
// if the reserve cannot be made whole: what others removed was not enough.
func (db *DB) Update(fn func(*bolt.Tx) error) error {
	return db.DB.Update(func(tx *bolt.Tx) error {
		if err := db.reserve(tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

// Remove runs fn in a transaction that does nothing but remove. It may use the
// reserve.
func (db *DB) Remove(fn func(*bolt.Tx) error) error { return db.DB.Update(fn) }

// chunk is the least that is reserved, and the unit of it.
const chunk = 128 << 10

// reserve allocates room for as much as is in use: no removal changes more. The
// last transaction has not been counted in when it began, a chunk is for that.
func (db *DB) reserve(tx *bolt.Tx) error {
	size := tx.Size()
	used := size - int64(db.Stats().FreePageN)*int64(db.Info().PageSize)
	want := size + used + chunk
	if want <= db.reserved {
		return nil
	}
	want += chunk - want%chunk // spares most transactions the call
	var err error = unix.EINTR
	for err == unix.EINTR {
		err = unix.Fallocate(int(db.file.Fd()), 0, db.reserved, want-db.reserved)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		want, err = math.MaxInt64, nil // nothing is gained by asking again
	}
	if err != nil {
		return fmt.Errorf("reserve %d bytes: %w", want, &os.PathError{Op: "fallocate", Path: db.Path(), Err: err})
	}
	db.reserved = want
	return nil
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
