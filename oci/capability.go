// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities are the names in the order of the kernel's numbers.
const capabilities = `CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
	CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW
	CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT
	CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE
	CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM
	CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE`

// CapabilityNames are the capabilities that are known, in the order of the
// kernel's numbers.
func CapabilityNames() []string { return strings.Fields(capabilities) }

func defaultCaps() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// WithCapabilities changes the capabilities of the process: those of add
// (names with CAP_, or ALL for all that this process has) come, and those of
// drop go.
func WithCapabilities(add, drop []string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		add, err := expandCaps(add)
		if err != nil {
			return err
		}
		drop, err := expandCaps(drop)
		if err != nil {
			return err
		}
		c := caps(s)
		for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
			for _, name := range add {
				if !slices.Contains(*set, name) {
					*set = append(*set, name)
				}
			}
			*set = slices.DeleteFunc(*set, func(name string) bool { return slices.Contains(drop, name) })
		}
		for _, set := range []*[]string{&c.Inheritable, &c.Ambient} {
			*set = slices.DeleteFunc(*set, func(name string) bool { return slices.Contains(drop, name) })
		}
		return nil
	}
}

// expandCaps checks names and replaces ALL.
func expandCaps(names []string) ([]string, error) {
	known := strings.Fields(capabilities)
	var out []string
	for _, n := range names {
		if n == "ALL" || n == "CAP_ALL" {
			all, err := currentCaps()
			if err != nil {
				return nil, err
			}
			out = append(out, all...)
			continue
		}
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("capability %q: unknown, names begin with CAP_: %w", n, errdefs.ErrInvalidArgument)
		}
		out = append(out, n)
	}
	return out, nil
}

// withAllCapabilities gives the process what this one has.
func withAllCapabilities() Opt {
	return func(_ context.Context, s *specs.Spec) error {
		all, err := currentCaps()
		if err != nil {
			return err
		}
		c := caps(s)
		c.Bounding, c.Effective, c.Permitted = all, slices.Clone(all), slices.Clone(all)
		return nil
	}
}

// currentCaps names the effective capabilities of this process. Only the
// kernel knows which of the names it has.
func currentCaps() ([]string, error) {
	const file = "/proc/self/status"
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, ok := strings.CutPrefix(lines.Text(), "CapEff:")
		if !ok {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return capNames(mask), nil
	}
	return nil, fmt.Errorf("%s: no CapEff: %w", file, errdefs.ErrNotFound)
}

func capNames(mask uint64) []string {
	var names []string
	for i, n := range strings.Fields(capabilities) {
		if mask&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}
