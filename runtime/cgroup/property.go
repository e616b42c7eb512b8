// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// unitLimits are the limits as properties of a unit
// (systemd.resource-control(5)). What systemd has no word for is only written
// to the files.
func unitLimits(b *bus, v2 bool, r *specs.LinuxResources) ([]property, error) {
	p, err := deviceLimits(v2, r)
	if err != nil {
		return nil, err
	}
	version := b.version()
	memory, err := memoryLimits(v2, r.Memory)
	if err != nil {
		return nil, err
	}
	p = append(p, memory...)
	p = append(p, cpuLimits(v2, version, r.CPU)...)
	if r.BlockIO != nil && isSet(r.BlockIO.Weight) && !v2 {
		p = append(p, prop("BlockIOWeight", uint64(*r.BlockIO.Weight)))
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		p = append(p, prop("TasksMax", tasksMax(*r.Pids.Limit)))
	}
	if !v2 {
		return p, nil
	}
	more, err := unifiedLimits(version, r.Unified)
	return append(p, more...), err
}

// version is systemd's, or 0 if it does not say.
func (b *bus) version() int {
	text, _ := b.property("Version") // as "252.39-1~deb12u1"
	text = strings.TrimLeft(text, "v")
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		text = text[:end]
	}
	n, _ := strconv.Atoi(text)
	return n
}

// tasksMax: systemd refuses 0.
func tasksMax(limit int64) uint64 {
	if limit < 0 {
		return math.MaxUint64
	}
	return uint64(max(limit, 1))
}

// A deviceEntry is an element of DeviceAllow.
type deviceEntry struct{ node, access string }

// deviceLimits tells systemd the rules. In version 2 the container's own
// program enforces them, and systemd is kept from adding one. In version 1 it
// writes the same files as this package, whenever it is reloaded, so it must
// know them; its words have no denying rule but the one for everything.
func deviceLimits(v2 bool, r *specs.LinuxResources) ([]property, error) {
	if r.Devices == nil {
		return nil, nil
	}
	rules, err := deviceRules(r.Devices)
	if err != nil {
		return nil, err
	}
	policy, entries := "auto", []deviceEntry{}
	if !v2 && !rules[0].allow {
		policy = "strict"
		for _, rule := range rules[1:] {
			if e, ok := rule.entry(); ok {
				entries = append(entries, e)
			}
		}
	}
	return []property{prop("DevicePolicy", policy), prop("DeviceAllow", entries)}, nil
}

// entry is the rule in systemd's words: a group of devices by the name of its
// driver, or one by its numbers. A minor number for all major ones has none.
func (r deviceRule) entry() (deviceEntry, bool) {
	group := "block"
	if r.kind == 'c' {
		group = "char"
	}
	access := strings.Fields(r.String())[2]
	switch {
	case !r.allow, r.major == any_ && r.minor != any_:
		return deviceEntry{}, false
	case r.major == any_:
		return deviceEntry{group + "-*", access}, true
	case r.minor == any_:
		return deviceEntry{fmt.Sprintf("%s-%d", group, r.major), access}, true
	}
	return deviceEntry{fmt.Sprintf("/dev/%s/%d:%d", group, r.major, r.minor), access}, true
}

func memoryLimits(v2 bool, r *specs.LinuxMemory) ([]property, error) {
	var p []property
	if r == nil {
		return nil, nil
	}
	if isSet(r.Limit) {
		name := "MemoryLimit"
		if v2 {
			name = "MemoryMax"
		}
		p = append(p, prop(name, uint64(*r.Limit)))
	}
	if !v2 {
		return p, nil
	}
	if isSet(r.Reservation) {
		p = append(p, prop("MemoryLow", uint64(*r.Reservation)))
	}
	swap, err := swapMax(value(r.Limit), value(r.Swap))
	if err != nil {
		return nil, err
	}
	if swap != "" {
		n, err := parseUint(swap)
		if err != nil {
			return nil, err
		}
		p = append(p, prop("MemorySwapMax", n))
	}
	return p, nil
}

// Versions of systemd that brought a property.
const (
	systemdPeriod = 242 // CPUQuotaPeriodUSec
	systemdCpuset = 244 // AllowedCPUs
	systemdIdle   = 252 // CPUWeight=idle
)

func cpuLimits(v2 bool, version int, r *specs.LinuxCPU) []property {
	var p []property
	if r == nil {
		return nil
	}
	switch {
	case v2 && r.Idle != nil && *r.Idle == 1 && version >= systemdIdle:
		p = append(p, prop("CPUWeight", uint64(0)))
	case v2 && isSet(r.Shares):
		p = append(p, prop("CPUWeight", Weight(*r.Shares)))
	case isSet(r.Shares):
		p = append(p, prop("CPUShares", *r.Shares))
	}
	if isSet(r.Quota) || isSet(r.Period) {
		p = append(p, quotaLimits(version, value(r.Quota), value(r.Period))...)
	}
	if version < systemdCpuset {
		return p
	}
	for name, list := range map[string]string{"AllowedCPUs": r.Cpus, "AllowedMemoryNodes": r.Mems} {
		if list != "" {
			p = append(p, prop(name, bitmap(list)))
		}
	}
	return p
}

// quotaLimits rounds up to whole percents of a processor, as systemd counts:
// else the file would be stricter than the unit.
func quotaLimits(version int, quota int64, period uint64) []property {
	var p []property
	if period == 0 {
		period = defaultPeriod
	}
	if version >= systemdPeriod {
		p = append(p, prop("CPUQuotaPeriodUSec", period))
	}
	perSecond := uint64(math.MaxUint64)
	if quota > 0 {
		const percent = 10_000 // microseconds a second
		perSecond = (uint64(quota)*1_000_000/period + percent - 1) / percent * percent
	}
	return append(p, prop("CPUQuotaPerSecUSec", perSecond))
}

// bitmap has a bit for every number of a list like "0-3,7", lowest byte first.
func bitmap(list string) []byte {
	var bits []byte
	for _, n := range parseList(list) {
		for len(bits) <= int(n/8) {
			bits = append(bits, 0)
		}
		bits[n/8] |= 1 << (n % 8)
	}
	return bits
}

// unifiedNumbers are the files with one number, or max, that systemd knows.
var unifiedNumbers = map[string]string{
	"memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin", "memory.max": "MemoryMax",
	"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
}

// unifiedLimits translates what is set by the names of control files.
func unifiedLimits(version int, files map[string]string) ([]property, error) {
	var p []property
	for _, file := range slices.Sorted(maps.Keys(files)) {
		text := strings.TrimSpace(files[file])
		bad := func(err error) ([]property, error) {
			return nil, fmt.Errorf("unified resource %q=%q: %w: %w", file, text, err, errdefs.ErrInvalidArgument)
		}
		if err := plainName(file); err != nil {
			return bad(err)
		}
		switch {
		case unifiedNumbers[file] != "":
			n, err := parseUint(text)
			if err != nil {
				return bad(err)
			}
			if file == "pids.max" {
				n = max(n, 1)
			}
			p = append(p, prop(unifiedNumbers[file], n))
		case file == "cpu.max":
			quota, period, err := parseBandwidth(text)
			if err != nil {
				return bad(err)
			}
			p = append(p, quotaLimits(version, quota, period)...)
		case file == "cpu.idle" && text == "1" && version >= systemdIdle:
			p = append(p, prop("CPUWeight", uint64(0)))
		case file == "cpuset.cpus" && version >= systemdCpuset:
			p = append(p, prop("AllowedCPUs", bitmap(text)))
		case file == "cpuset.mems" && version >= systemdCpuset:
			p = append(p, prop("AllowedMemoryNodes", bitmap(text)))
		}
	}
	return p, nil
}

// parseBandwidth reads "quota period" or "quota" of cpu.max.
func parseBandwidth(text string) (quota int64, period uint64, err error) {
	f := strings.Fields(text)
	if len(f) < 1 || len(f) > 2 {
		return 0, 0, fmt.Errorf("want a quota and a period")
	}
	quota = -1
	if f[0] != "max" {
		if quota, err = strconv.ParseInt(f[0], 10, 64); err != nil {
			return 0, 0, err
		}
	}
	period = defaultPeriod
	if len(f) == 2 {
		period, err = strconv.ParseUint(f[1], 10, 64)
	}
	return quota, period, err
}
