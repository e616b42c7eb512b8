// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 && !arm64

package linux

import "syscall"

const canVfork = false

func vforkCall(nr, arg0, arg1 uintptr) (pid uintptr, errno syscall.Errno) { return 0, syscall.ENOSYS }
