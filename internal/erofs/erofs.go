// SPDX-License-Identifier: Apache-2.0

// Package erofs makes images of EROFS, a read-only file system, with the
// program mkfs.erofs. A layer directory holds what a snapshot is made of; the
// marker says that it is to become an image.
package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Names in a layer directory.
const (
	Marker = ".erofslayer"
	Image  = "layer.erofs"
)

// MediaType is that of layers that are images already; a suffix +zstd says
// that they are compressed.
const MediaType = "application/vnd.erofs.layer.v1"

// IsImage says whether layers of a media type are images.
func IsImage(mediaType string) bool {
	base, _, _ := strings.Cut(mediaType, "+")
	return base == MediaType
}

const program = "mkfs.erofs"

// Supported says whether the kernel knows the file system.
func Supported() bool {
	list, err := os.ReadFile("/proc/filesystems")
	return err == nil && bytes.Contains(list, []byte("\terofs\n"))
}

// CanTar says whether mkfs.erofs reads archives, as it does from version 1.7
// on. It fails if there is no such program.
func CanTar(ctx context.Context) (bool, error) {
	if err := present(); err != nil {
		return false, err
	}
	// Old versions exit with an error after the help.
	help, err := exec.CommandContext(ctx, program, "--help").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, err
	}
	return strings.Contains(string(help), "--tar="), nil
}

// FromDir makes the image of a directory that is the upper one of an overlay.
func FromDir(ctx context.Context, image, dir string, options ...string) error {
	return build(ctx, image, nil, options, dir)
}

// FromTar makes the image of a layer that r gives as an archive. Its whiteouts
// become those of overlayfs.
func FromTar(ctx context.Context, image string, r io.Reader, options ...string) error {
	return build(ctx, image, r, append([]string{"--tar=f", "--aufs"}, options...))
}

// build runs mkfs.erofs and makes the image durable. Data apart from the inodes
// lets images be merged and mapped by blocks.
func build(ctx context.Context, image string, stdin io.Reader, options []string, source ...string) (err error) {
	if err := present(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(image)
		}
	}()
	args := append([]string{"--quiet", "-Enoinline_data"}, options...)
	cmd := exec.CommandContext(ctx, program, append(append(args, image), source...)...)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, image, err, strings.TrimSpace(string(out)))
	}
	return syncFile(image)
}

func present() error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("making EROFS images needs %s of the package erofs-utils: %w: %w", program, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Write puts an image that r gives into a file.
func Write(image string, r io.Reader) (err error) {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(image)
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	return f.Sync()
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// IsLayer says whether a directory is to become an image.
func IsLayer(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, Marker))
	return err == nil
}
