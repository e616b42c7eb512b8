// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"slipway/client"
	"slipway/internal/ident"
	"slipway/oci"
)

// A target is what the arguments of run and create name.
type target struct {
	image string // or the directory of a root file system, or nothing with a spec
	id    string
	args  []string
}

// target reads the arguments.
func (f *containerFlags) target(args []string) (target, error) {
	if f.config != "" {
		if len(args) > 1 {
			return target{}, errors.New("with spec config file, only container id should be provided")
		}
		args = append([]string{""}, args...)
	} else if arg(args, 0) == "" {
		return target{}, errors.New("image ref must be provided")
	}
	if arg(args, 1) == "" {
		return target{}, errNoContainer
	}
	return target{image: args[0], id: args[1], args: args[2:]}, nil
}

// newContainer makes the container that flags and arguments describe.
func (s *session) newContainer(c *client.Client, f *containerFlags, t target) (*client.MadeContainer, error) {
	n := client.NewContainer{ID: t.id, Sandbox: f.sandbox, Runtime: f.runtime.name, Labels: labels(f.labels)}
	var err error
	if n.RuntimeOptions, err = f.runtime.options(); err != nil {
		return nil, err
	}
	if f.cni {
		if n.Extensions, err = cniExtension(); err != nil {
			return nil, err
		}
	}
	opts, err := f.opts()
	if err != nil {
		return nil, err
	}
	switch {
	case f.config != "":
		return s.fromSpec(c, f, n)
	case f.rootfs:
		return s.fromRootfs(c, f, t, n, opts)
	}
	return s.fromImage(c, f, t, n, opts)
}

func (s *session) fromSpec(c *client.Client, f *containerFlags, n client.NewContainer) (_ *client.MadeContainer, err error) {
	if n.Spec, err = oci.Load(f.config); err != nil {
		return nil, fmt.Errorf("cannot load spec config file: %w", err)
	}
	if err := oci.Apply(s.ctx, n.Spec, oci.WithAnnotations(n.Labels)); err != nil {
		return nil, err
	}
	return c.NewContainer(s.ctx, n)
}

func (s *session) fromRootfs(c *client.Client, f *containerFlags, t target, n client.NewContainer, opts []oci.Opt) (*client.MadeContainer, error) {
	root, err := filepath.Abs(t.image)
	if err != nil {
		return nil, err
	}
	first := []oci.Opt{oci.WithRootfs(root), oci.WithArgs(t.args...)}
	if f.user != "" {
		first = append(first, oci.WithUser(f.user, root))
	}
	n.Spec = oci.Default(s.globals.namespace, t.id)
	if err := oci.Apply(s.ctx, n.Spec, append(first, opts...)...); err != nil {
		return nil, err
	}
	return c.NewContainer(s.ctx, n)
}

func (s *session) fromImage(c *client.Client, f *containerFlags, t target, n client.NewContainer, opts []oci.Opt) (_ *client.MadeContainer, err error) {
	base, err := s.prepare(c, f.snapshotter, t.image)
	if err != nil {
		return nil, err
	}
	defer s.later(base.done)
	n.Image, n.Snapshotter = t.image, base.snapshotter
	var config ocispec.Image
	n.Parent, config, err = c.UnpackWith(base.ctx, client.Descriptor(base.image.Target), client.UnpackOpts{
		Snapshotter: base.snapshotter, Platform: f.platform, SyncFS: f.syncFS,
	})
	if err != nil {
		return nil, err
	}
	n.Labels = s.containerLabels(config, base.image.Labels, n.Labels)
	n.SnapshotLabels = labels(f.snapshotLabels)
	if len(f.uidMaps) > 0 && len(f.gidMaps) > 0 {
		if err := s.remap(base.ctx, c, f, &n); err != nil {
			return nil, err
		}
	}
	if f.user == "" {
		f.user = config.Config.User
	}
	n.Spec = oci.Default(s.globals.namespace, t.id)
	first := []oci.Opt{oci.WithImageConfig(config, t.args)}
	if len(t.args) > 0 { // in place of the image's entry point, too
		first = append(first, oci.WithArgs(t.args...))
	}
	first = append(first, f.envOpts()...)
	if err := oci.Apply(base.ctx, n.Spec, append(first, opts...)...); err != nil {
		return nil, err
	}
	n.RootOpts = func(root string) []oci.Opt { return []oci.Opt{oci.WithUser(f.user, root)} }
	return c.NewContainer(base.ctx, n)
}

// basis is what the calls ahead of a container have found.
type basis struct {
	ctx         context.Context // under a lease
	done        func() error
	image       *imagesapi.Image
	snapshotter string
}

// prepare makes the calls that do not wait for each other at once.
func (s *session) prepare(c *client.Client, snapshotter, image string) (b basis, err error) {
	var calls errgroup.Group
	calls.Go(func() (err error) {
		b.ctx, b.done, err = c.WithLease(s.ctx, 0)
		return err
	})
	calls.Go(func() error {
		resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: image})
		b.image = resp.GetImage()
		return err
	})
	calls.Go(func() (err error) {
		b.snapshotter, err = c.Snapshotter(s.ctx, snapshotter)
		return err
	})
	if err = calls.Wait(); err != nil && b.done != nil {
		s.later(b.done)
	}
	return b, err
}

// containerLabels are those of the image's config, of the image, and of the
// user, who wins.
func (s *session) containerLabels(config ocispec.Image, image, user map[string]string) map[string]string {
	all := make(map[string]string)
	for _, m := range []map[string]string{config.Config.Labels, image} {
		for k, v := range m {
			if err := ident.CheckLabel(k, v); err != nil {
				s.log().Warn(fmt.Sprintf("unable to add image label with key %s to the container", k), "error", err)
				continue
			}
			all[k] = v
		}
	}
	maps.Copy(all, user)
	all[client.StopSignalLabel] = "SIGTERM"
	if config.Config.StopSignal != "" {
		all[client.StopSignalLabel] = config.Config.StopSignal
	}
	return all
}

// remap has the owners of files shifted to those of the container's user
// namespace: by the snapshotter, or in a copy if it cannot.
func (s *session) remap(ctx context.Context, c *client.Client, f *containerFlags, n *client.NewContainer) error {
	able, err := capabilities(ctx, c, n.Snapshotter)
	if err != nil {
		return err
	}
	if f.remapLabels || slices.Contains(able, "remap-ids") {
		n.SnapshotLabels["containerd.io/snapshot/uidmapping"] = strings.Join(f.uidMaps, ",")
		n.SnapshotLabels["containerd.io/snapshot/gidmapping"] = strings.Join(f.gidMaps, ",")
	}
	if slices.Contains(able, "remap-ids") {
		return nil
	}
	if f.remapLabels && slices.Contains(able, "only-remap-ids") {
		return fmt.Errorf("snapshotter %q doesn't support idmap mounts on this host, configure `slow_chown` to allow a slower and expensive fallback", n.Snapshotter)
	}
	var ids client.IDMaps
	if ids.UIDs, err = idMappings(f.uidMaps); err != nil {
		return err
	}
	if ids.GIDs, err = idMappings(f.gidMaps); err != nil {
		return err
	}
	n.Parent, err = c.Remapped(ctx, n.Snapshotter, n.Parent, ids)
	return err
}

// capabilities are those of a snapshotter.
func capabilities(ctx context.Context, c *client.Client, snapshotter string) (all []string, err error) {
	resp, err := c.Introspection().Plugins(ctx, &introspectionapi.PluginsRequest{
		Filters: []string{"type==io.containerd.snapshotter.v1, id==" + snapshotter},
	})
	if err != nil {
		return nil, err
	}
	for _, p := range resp.Plugins {
		all = append(all, p.Capabilities...)
	}
	return all, nil
}

// idMappings reads container-id:host-id:size.
func idMappings(list []string) ([]specs.LinuxIDMapping, error) {
	var all []specs.LinuxIDMapping
	for _, text := range list {
		var m specs.LinuxIDMapping
		var rest string
		n, _ := fmt.Sscanf(text, "%d:%d:%d%s", &m.ContainerID, &m.HostID, &m.Size, &rest)
		if n != 3 {
			return nil, fmt.Errorf("user namespace mapping %q: not of the form container-id:host-id:size: %w", text, errdefs.ErrInvalidArgument)
		}
		all = append(all, m)
	}
	return all, nil
}
