// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"sync"
)

// keyedLocks is one lock per key. The zero value is ready to use.
type keyedLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed on release
}

// acquire waits for the key's lock or for ctx.
func (l *keyedLocks) acquire(ctx context.Context, key string) (release func(), err error) {
	for {
		l.mu.Lock()
		busy, ok := l.held[key]
		if !ok {
			break
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = make(map[string]chan struct{})
	}
	done := make(chan struct{})
	l.held[key] = done
	return func() {
		l.mu.Lock()
		delete(l.held, key)
		l.mu.Unlock()
		close(done)
	}, nil
}
