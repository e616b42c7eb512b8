// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/task/shimtest"
)

// fakeMounts notes what it is asked.
type fakeMounts struct {
	calls []string
	err   error
}

func (f *fakeMounts) Rootfs(_ context.Context, ns ident.Namespace, id string, mounts []mount.Mount) ([]mount.Mount, error) {
	f.calls = append(f.calls, fmt.Sprintf("activate %s/%s %d", ns, id, len(mounts)))
	return nil, f.err
}

func (f *fakeMounts) Deactivate(_ context.Context, ns ident.Namespace, id string) error {
	f.calls = append(f.calls, fmt.Sprintf("deactivate %s/%s", ns, id))
	return nil
}

func TestRootfsIsActivatedWhileTheTaskLives(t *testing.T) {
	for name, c := range map[string]struct {
		opts   shimtest.Options
		err    error
		create bool
	}{
		"deleted":     {create: true},
		"refused":     {err: errors.New("no")},
		"shim failed": {opts: shimtest.Options{Create: "fail"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, f := newHost(t), &fakeMounts{err: c.err}
			m := h.open(t, func(cfg *Config) { cfg.Mounts = f })
			h.container(t, m, "c", c.opts)
			_, err := m.Create(t.Context(), ns, "c", CreateOpts{Rootfs: make([]mount.Mount, 2)})
			if (err == nil) != c.create {
				t.Fatalf("create: %v", err)
			}
			if c.create {
				if _, err := m.Delete(t.Context(), ns, "c"); err != nil {
					t.Fatal(err)
				}
			}
			if want := []string{fmt.Sprintf("activate %s/c 2", ns), fmt.Sprintf("deactivate %s/c", ns)}; !slices.Equal(f.calls, want) {
				t.Errorf("calls %v, want %v", f.calls, want)
			}
			h.checkEmpty(t)
		})
	}
}
