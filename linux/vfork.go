// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package linux

import "syscall"

const canVfork = true

// vforkCall makes a system call that lets a child run on this stack. It keeps
// its return address in a register meanwhile: the child's calls overwrite what
// is on the stack below the caller's frame.
//
//go:noescape
func vforkCall(nr, arg0, arg1 uintptr) (pid uintptr, errno syscall.Errno)
