// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"slipway/internal/ident"
)

// removeCgroup removes the cgroup of a namespace, in every hierarchy, with
// what is left empty below it.
func removeCgroup(namespace string) error {
	if err := ident.Namespace(namespace).Check(); err != nil {
		return err
	}
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + namespace)
	if err != nil {
		return err
	}
	for _, root := range append(roots, filepath.Join("/sys/fs/cgroup", namespace)) {
		if err := removeEmpty(root); err != nil {
			return err
		}
	}
	return nil
}

func removeEmpty(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs) // children first
	for _, d := range dirs {
		if err := unix.Rmdir(d); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}
