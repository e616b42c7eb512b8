// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"log/slog"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// warnOfCapabilities tells what a process in a container of spec will not get
// of the capabilities that it asks for. It is no error: images and clients ask
// for what a newer kernel has, an older one let them have, or another host.
func warnOfCapabilities(log *slog.Logger, spec *specs.Spec, p *specs.Process) {
	if log == nil || p.Capabilities == nil {
		return
	}
	c := p.Capabilities
	known := linux.CapabilityNames()
	var unknown []string
	for _, set := range [][]string{c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient} {
		for _, name := range set {
			if !slices.Contains(known, name) && !slices.Contains(unknown, name) {
				unknown = append(unknown, name)
			}
		}
	}
	granted := grantable(spec) & linux.CapabilityMask(c.Permitted)
	for _, name := range slices.Concat(c.Permitted, c.Effective) {
		given := linux.CapabilityMask([]string{name})&granted != 0
		if !given && !slices.Contains(unknown, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		log.Warn(fmt.Sprintf("ignoring unknown or unavailable capabilities: %v", unknown))
	}
	for _, name := range c.Ambient {
		// What the kernel wants of an ambient capability (capabilities(7)).
		has := slices.Contains(c.Permitted, name) && slices.Contains(c.Inheritable, name)
		if !has && slices.Contains(known, name) {
			log.Warn(fmt.Sprintf("can't raise ambient capability %s: %v", name, unix.EPERM))
		}
	}
}

// grantable are the capabilities that a process in a container of spec can be
// given: all in a user namespace of its own, else those of the caller. Of a
// container whose bundle is gone nothing is said.
func grantable(spec *specs.Spec) uint64 {
	if spec.Linux == nil || findNamespace(spec, specs.UserNamespace) != nil {
		return ^uint64(0)
	}
	own, err := linux.GetCapabilities()
	if err != nil {
		return ^uint64(0)
	}
	return own.Permitted
}
