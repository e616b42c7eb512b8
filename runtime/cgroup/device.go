// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultDevices are what every container may use, whatever its rules say: it
// may make any node, and open those of config-linux.md, "Default Devices",
// and its terminals.
var DefaultDevices = []specs.LinuxDeviceCgroup{
	allowed("c", any_, any_, "m"),
	allowed("b", any_, any_, "m"),
	allowed("c", 1, 3, "rwm"),      // null
	allowed("c", 1, 5, "rwm"),      // zero
	allowed("c", 1, 7, "rwm"),      // full
	allowed("c", 1, 8, "rwm"),      // random
	allowed("c", 1, 9, "rwm"),      // urandom
	allowed("c", 5, 0, "rwm"),      // tty
	allowed("c", 5, 2, "rwm"),      // ptmx
	allowed("c", 136, any_, "rwm"), // pts
}

// any_ stands for all numbers.
const any_ = -1

func allowed(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access}
}

// A deviceRule is a rule in the kernel's terms.
type deviceRule struct {
	allow        bool
	kind         byte // 'a', 'b' or 'c'
	major, minor int64
	access       uint32 // bpfDev*
}

// Kinds of access, as in struct bpf_cgroup_dev_ctx (<linux/bpf.h>).
const (
	accessMknod = 1 << iota
	accessRead
	accessWrite
	accessAll = accessMknod | accessRead | accessWrite
)

// deviceRules reads rules in order: for each kind of access, the last rule
// about a device decides. What no rule speaks of is denied.
func deviceRules(spec []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	rules := []deviceRule{{false, 'a', any_, any_, accessAll}}
	for _, d := range slices.Concat(spec, DefaultDevices) {
		r, err := parseDevice(d)
		if err != nil {
			return nil, err
		}
		if r.kind == 'a' { // all that came before is void
			rules = rules[:0]
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func parseDevice(d specs.LinuxDeviceCgroup) (deviceRule, error) {
	r := deviceRule{allow: d.Allow, major: any_, minor: any_}
	if d.Major != nil {
		r.major = *d.Major
	}
	if d.Minor != nil {
		r.minor = *d.Minor
	}
	bad := func(what string) (deviceRule, error) {
		return r, fmt.Errorf("device rule %c %d:%d %q: %s: %w", r.kind, r.major, r.minor, d.Access, what, errdefs.ErrInvalidArgument)
	}
	switch d.Type {
	case "", "a": // "a" is for every access to every device, as the kernel reads it
		r.kind, r.access, r.major, r.minor = 'a', accessAll, any_, any_
		return r, nil
	case "b", "c":
		r.kind = d.Type[0]
	case "u":
		r.kind = 'c' // unbuffered, see mknod(1)
	default:
		return bad("type " + d.Type + " is unknown")
	}
	for _, a := range d.Access {
		if a == 'a' { // means nothing, as with runc
			continue
		}
		i := strings.IndexRune("mrw", a)
		if i < 0 {
			return bad("access is made of r, w and m")
		}
		r.access |= 1 << i
	}
	if r.access == 0 {
		r.access = accessAll
	}
	if r.major < any_ || r.minor < any_ || r.major > math.MaxInt32 || r.minor > math.MaxInt32 {
		return bad("the numbers are out of range")
	}
	return r, nil
}

// String is the form of the files of version 1.
func (r deviceRule) String() string {
	if r.kind == 'a' {
		return "a *:* rwm"
	}
	number := func(n int64) string {
		if n == any_ {
			return "*"
		}
		return fmt.Sprint(n)
	}
	access := ""
	for i, c := range []string{"m", "r", "w"} {
		if r.access&(1<<i) != 0 {
			access += c
		}
	}
	return fmt.Sprintf("%c %s:%s %s", r.kind, number(r.major), number(r.minor), access)
}

func (m *Manager) setDevices(spec []specs.LinuxDeviceCgroup) error {
	rules, err := deviceRules(spec)
	if err != nil {
		return err
	}
	if m.v2 {
		return attachDevices(m.dirs[unified], rules)
	}
	// A group starts with the rules of the one above, so the first rule is
	// always one for all devices.
	for len(rules) > 0 {
		file, values := "devices.deny", []string(nil)
		if rules[0].allow {
			file = "devices.allow"
		}
		for allow := rules[0].allow; len(rules) > 0 && rules[0].allow == allow; rules = rules[1:] {
			values = append(values, rules[0].String())
		}
		if err := write(m.dirs["devices"], file, values...); err != nil {
			return err
		}
	}
	return nil
}
