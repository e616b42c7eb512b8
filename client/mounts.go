// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"errors"

	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
	"github.com/containerd/errdefs"

	"slipway/internal/mount"
	"slipway/internal/mount/mountproto"
)

// Activate has the daemon perform, under a name, what of mounts the kernel
// alone cannot. It returns those that are left to the caller, which are all of
// them if they are plain; then there is nothing to deactivate.
func (c *Client) Activate(ctx context.Context, name string, mounts []mount.Mount) ([]mount.Mount, error) {
	resp, err := c.Mounts().Activate(ctx, &mountsapi.ActivateRequest{Name: name, Mounts: mountproto.Of(mounts)})
	if errdefs.IsNotImplemented(err) {
		return mounts, nil // should they not be plain, mounting them says so
	}
	if err != nil {
		return nil, err
	}
	return mount.FromProto(resp.Info.GetSystem()), nil
}

// Deactivate takes off what Activate has left with the daemon, if it has.
func (c *Client) Deactivate(ctx context.Context, name string) error {
	_, err := c.Mounts().Deactivate(ctx, &mountsapi.DeactivateRequest{Name: name})
	if errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) {
		return nil
	}
	return err
}

// withMounted calls fn while mounts are performed at root, read-only. It opens
// root and does not walk from it (mount.WithRoot).
func (c *Client) withMounted(ctx context.Context, mounts []mount.Mount, fn func(root string) error) error {
	return c.mounted(ctx, mount.ReadOnly(mounts), fn)
}

// mounted is withMounted, with what mounts say of writing.
func (c *Client) mounted(ctx context.Context, mounts []mount.Mount, fn func(root string) error) (err error) {
	if mount.Plain(mounts) {
		return mount.WithRoot(ctx, mounts, fn)
	}
	name := "temporary-" + rand.Text()
	system, err := c.Activate(ctx, name, mounts)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.Deactivate(context.WithoutCancel(ctx), name))
	}()
	if len(system) == 0 {
		return errors.New("the daemon left no mount to perform")
	}
	return mount.WithRoot(ctx, system, fn)
}
