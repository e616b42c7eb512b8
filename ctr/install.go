// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"

	"slipway/client"
	"slipway/content"
	"slipway/diff"
	"slipway/image"
)

// installFlags are those of install.
type installFlags struct {
	libs, replace bool
	path          string
}

func install(f flagSet) action {
	i := &installFlags{}
	f.BoolVarP(&i.libs, "libs", "l", false, "Install libraries as well")
	f.BoolVarP(&i.replace, "replace", "r", false, "Replace what is there")
	f.StringVar(&i.path, "path", "", "Directory to install into, the daemon's if empty")
	return func(s *session, args []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: arg(args, 0)})
		if err != nil {
			return err
		}
		if i.path == "" {
			if i.path, err = optPath(s.ctx, c); err != nil {
				return err
			}
		}
		m, err := image.Manifest(s.ctx, c.Store(), client.Descriptor(resp.Image.Target), platforms.Default())
		if err != nil {
			return err
		}
		root, err := os.OpenRoot(i.path)
		if err != nil {
			return err
		}
		defer root.Close()
		for _, l := range m.Layers {
			if err := i.layer(s.ctx, root, c.Store(), l.Digest); err != nil {
				return fmt.Errorf("install layer %s: %w", l.Digest, err)
			}
		}
		return nil
	}
}

// optPath asks the daemon where it looks for programs.
func optPath(ctx context.Context, c *client.Client) (string, error) {
	resp, err := c.Introspection().Plugins(ctx, &introspectionapi.PluginsRequest{
		Filters: []string{"type==io.containerd.internal.v1, id==opt"},
	})
	if err != nil {
		return "", err
	}
	for _, p := range resp.Plugins {
		if path := p.Exports["path"]; path != "" {
			return path, nil
		}
	}
	return "", fmt.Errorf("opt path of the daemon: %w", errdefs.ErrNotFound)
}

func (i *installFlags) layer(ctx context.Context, root *os.Root, p content.Provider, d digest.Digest) error {
	ra, err := p.ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer ra.Close()
	plain, _, err := diff.Decompress(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return err
	}
	defer plain.Close()
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if dir := path.Dir(name); dir != "bin" && !(i.libs && dir == "lib") {
			continue
		}
		if err := i.entry(root, name, h, r); err != nil {
			return err
		}
	}
}

// entry installs a file or a link; nothing else belongs into these
// directories, and nothing leaves root.
func (i *installFlags) entry(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	if _, err := root.Lstat(name); err == nil && !i.replace {
		return fmt.Errorf("cannot replace %s in %s", name, i.path)
	}
	if err := root.MkdirAll(path.Dir(name), 0o711); err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(filepath.Clean(h.Linkname), name)
	case tar.TypeReg:
	default:
		return nil
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(h.Mode).Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
