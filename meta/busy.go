// SPDX-License-Identifier: Apache-2.0

package meta

import "sync"

// busy marks backend objects that are between their creation and their
// record, so that no collection takes them for garbage. The zero value is
// ready.
//
// Who creates holds the name until the record is committed. Who collects
// tries to hold it, looks for a record once more, and only then deletes.
type busy struct {
	mu   sync.Mutex
	free *sync.Cond
	held map[string]int
}

// hold waits until no collection deletes name. Several creators may hold it.
func (b *busy) hold(name string) (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.init()
	for b.held[name] < 0 {
		b.free.Wait()
	}
	b.held[name]++
	return func() { b.drop(name, 1) }
}

// try takes name for deletion, unless somebody holds it.
func (b *busy) try(name string) (release func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.init()
	if b.held[name] != 0 {
		return nil, false
	}
	b.held[name] = -1
	return func() { b.drop(name, -1) }, true
}

func (b *busy) init() {
	if b.held == nil {
		b.held, b.free = map[string]int{}, sync.NewCond(&b.mu)
	}
}

func (b *busy) drop(name string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[name] -= n; b.held[name] == 0 {
		delete(b.held, name)
	}
	b.free.Broadcast()
}
