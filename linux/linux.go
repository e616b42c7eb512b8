// SPDX-License-Identifier: Apache-2.0

// Package linux wraps the kernel interfaces this project uses. Its functions
// take Go types, retry EINTR, name the call and its object in every error, and
// decide nothing: policy belongs to the callers.
package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// ID is a number that identifies a user or group to the kernel, or -1 for
// one that a call leaves as it is.
type ID = int

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

func callError(op string, err error) error {
	if err == nil {
		return nil
	}
	return os.NewSyscallError(op, err)
}

func errnoError(op string, errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return os.NewSyscallError(op, errno)
}
