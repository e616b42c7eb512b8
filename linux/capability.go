// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"strings"

	"golang.org/x/sys/unix"
)

// capabilities are the names in the order of the kernel's numbers.
var capabilities = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
	CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW
	CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT
	CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE
	CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM
	CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE`)

// CapabilityNames are all the names that this program knows, by number.
func CapabilityNames() []string { return append([]string(nil), capabilities...) }

// CapabilityMask has bit n set for each name of capability n. Unknown names
// are left out.
func CapabilityMask(names []string) (mask uint64) {
	for _, name := range names {
		for n, known := range capabilities {
			if name == known {
				mask |= 1 << n
			}
		}
	}
	return mask
}

// DropBounding removes every capability that is not in keep from the bounding
// set of the calling thread.
func DropBounding(keep uint64) error {
	for n := uintptr(0); n < 64; n++ {
		if keep&(1<<n) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0)
		if err == unix.EINVAL {
			return nil // past the kernel's last
		}
		if err != nil {
			return callError("prctl drop capability", err)
		}
	}
	return nil
}

// SetAmbient makes mask the ambient set of the calling thread, less what is
// not both permitted and inheritable (EPERM).
func SetAmbient(mask uint64) error {
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil {
		return callError("prctl clear ambient", err)
	}
	for n := uintptr(0); n < 64; n++ {
		if mask&(1<<n) == 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0)
		if err != nil && err != unix.EPERM {
			return callError("prctl raise ambient", err)
		}
	}
	return nil
}
