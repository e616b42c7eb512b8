// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// flusher makes file systems durable. Those who ask while a flush is under way
// share the next one. The zero value is ready to use.
type flusher struct {
	mu    sync.Mutex
	disks map[uint64]*disk // by device number
}

// disk is one file system.
type disk struct {
	busy bool
	next *flush // that those who ask now will share
}

type flush struct {
	dir  *os.File // any directory of the file system
	done chan struct{}
	err  error
}

// sync returns when everything that was written to the file system of the
// directory path before the call is on disk. It flushes no other one.
func (f *flusher) sync(ctx context.Context, path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	mine, err := f.join(dir)
	if err != nil {
		dir.Close()
		return err
	}
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join takes part in the next flush, which owns its directory.
func (f *flusher) join(dir *os.File) (*flush, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: dir.Name(), Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.disks == nil {
		f.disks = map[uint64]*disk{}
	}
	d := f.disks[st.Dev]
	if d == nil {
		d = &disk{}
		f.disks[st.Dev] = d
	}
	if d.next == nil {
		d.next = &flush{dir: dir, done: make(chan struct{})}
	} else {
		dir.Close()
	}
	if !d.busy {
		d.busy = true
		go f.run(d) // ends when nobody asks any more
	}
	return d.next, nil
}

func (f *flusher) run(d *disk) {
	for {
		f.mu.Lock()
		now := d.next
		d.next = nil
		d.busy = now != nil
		f.mu.Unlock()
		if now == nil {
			return
		}
		if err := unix.Syncfs(int(now.dir.Fd())); err != nil {
			now.err = &os.PathError{Op: "syncfs", Path: now.dir.Name(), Err: err}
		}
		now.dir.Close()
		close(now.done)
	}
}
