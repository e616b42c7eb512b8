// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"

	"github.com/containerd/errdefs"

	"slipway/internal/ident"
	"slipway/internal/mount"
)

// Mounts performs what of a root file system a shim cannot mount.
type Mounts interface {
	// Rootfs gives the mounts that are left for the shim.
	Rootfs(ctx context.Context, ns ident.Namespace, id string, mounts []mount.Mount) ([]mount.Mount, error)
	// Deactivate undoes it, errdefs.ErrNotFound if there was nothing to do.
	Deactivate(ctx context.Context, ns ident.Namespace, id string) error
}

func (m *Manager) activate(ctx context.Context, s *Shim, mounts []mount.Mount) ([]mount.Mount, error) {
	if m.cfg.Mounts == nil {
		return mounts, nil
	}
	return m.cfg.Mounts.Rootfs(ctx, s.b.ns, s.b.id, mounts)
}

// deactivate leaves what it cannot undo to the collection that follows the
// end of the container.
func (m *Manager) deactivate(ctx context.Context, s *Shim) {
	if m.cfg.Mounts == nil {
		return
	}
	if err := m.cfg.Mounts.Deactivate(ctx, s.b.ns, s.b.id); err != nil && !errdefs.IsNotFound(err) {
		m.cfg.Log.Error("task: root file system stays mounted", "namespace", s.b.ns, "id", s.b.id, "error", err)
	}
}
