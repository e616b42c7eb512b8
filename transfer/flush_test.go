// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"sync"
	"testing"
)

// layersOf makes layers that are ready or not, in a directory each; one
// without a key needs no work.
func layersOf(t *testing.T, keys ...string) []laid {
	all := make([]laid, len(keys))
	for i, key := range keys {
		all[i] = laid{key: key, dir: t.TempDir(), ready: make(chan struct{})}
		if key != "pending" {
			close(all[i].ready)
		}
	}
	return all
}

func TestLayersCountAsFlushedOnlyAfterAFlush(t *testing.T) {
	for claim, c := range map[string]struct {
		keys []string
		want []bool
	}{
		"ready ones share it":       {[]string{"a", "b", "c"}, []bool{true, true, true}},
		"what comes later does not": {[]string{"a", "b", "pending", "d"}, []bool{true, true, false, false}},
		"nothing to flush":          {[]string{"", "b"}, []bool{false, false}},
	} {
		t.Run(claim, func(t *testing.T) {
			all := layersOf(t, c.keys...)
			u := &unpacking{pull: &pull{Service: &Service{}}}
			if err := u.flushReady(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			for i, l := range all {
				if l.flushed != c.want[i] {
					t.Errorf("layer %d: flushed is %v", i, l.flushed)
				}
			}
		})
	}
	all := layersOf(t, "a", "b")
	all[1].inTurn = true // it has not been applied yet
	u := &unpacking{pull: &pull{Service: &Service{}}}
	if err := u.flushReady(t.Context(), all); err != nil || all[1].flushed {
		t.Errorf("a layer that waits for its turn: %v, %v", all[1].flushed, err)
	}
}

func TestFlushesAreShared(t *testing.T) {
	var f flusher
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := f.sync(t.Context(), dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(f.disks) != 1 {
		t.Errorf("%d file systems", len(f.disks))
	}
	if err := f.sync(t.Context(), dir+"/none"); err == nil {
		t.Error("a directory that is not there was flushed")
	}
}
