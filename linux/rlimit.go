// SPDX-License-Identifier: Apache-2.0

package linux

import "golang.org/x/sys/unix"

// Rlimits are the resources of getrlimit(2).
var Rlimits = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

// SetRlimit sets a resource limit of this process.
func SetRlimit(resource int, soft, hard uint64) error {
	lim := unix.Rlimit{Cur: soft, Max: hard}
	return callError("setrlimit", unix.Prlimit(0, resource, &lim, nil))
}

// RaiseRlimit lets the process pid set a resource limit up to hard.
func RaiseRlimit(pid, resource int, hard uint64) error {
	var now unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &now); err != nil || now.Max >= hard {
		return callError("prlimit", err)
	}
	now.Max = hard
	return callError("prlimit", unix.Prlimit(pid, resource, &now, nil))
}
