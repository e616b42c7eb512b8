// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setV1 sets limits in version 1 (Documentation/admin-guide/cgroup-v1). A
// number that is 0 is not set, as with runc, where 0 is no sensible value.
func (m *Manager) setV1(r *specs.LinuxResources) error {
	if len(r.Unified) > 0 {
		return fmt.Errorf("invalid configuration: cannot use unified resources on cgroup version 1: %w", errdefs.ErrInvalidArgument)
	}
	steps := []func() error{
		func() error { return setMemoryV1(m.dirs["memory"], r.Memory) },
		func() error { return setCpusetV1(m.dirs["cpuset"], r.CPU) },
		func() error { return setCPUV1(m.dirs["cpu"], r.CPU) },
		func() error { return setPids(m.dirs["pids"], r.Pids) },
		func() error { return setBlkio(m.dirs["blkio"], r.BlockIO) },
		func() error { return setHugetlb(m.dirs["hugetlb"], "limit_in_bytes", r.HugepageLimits) },
		func() error { return setNetwork(m.dirs["net_cls"], m.dirs["net_prio"], r.Network) },
		func() error { return setRdma(m.dirs["rdma"], r.Rdma) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// isSet says whether a limit was asked for.
func isSet[T int64 | uint64 | uint16](v *T) bool { return v != nil && *v != 0 }

func value[T int64 | uint64 | uint16](v *T) T {
	if v == nil {
		return 0
	}
	return *v
}

// Files of the memory controller of version 1.
const (
	memoryLimit = "memory.limit_in_bytes"
	swapLimit   = "memory.memsw.limit_in_bytes" // memory and swap
)

func setMemoryV1(dir string, r *specs.LinuxMemory) error {
	if r == nil {
		return nil
	}
	if err := setMemoryAndSwapV1(dir, value(r.Limit), value(r.Swap)); err != nil {
		return err
	}
	if isSet(r.Reservation) {
		if err := write(dir, "memory.soft_limit_in_bytes", strconv.FormatInt(*r.Reservation, 10)); err != nil {
			return err
		}
	}
	// The limit of kernel memory is left alone: Linux 5.4 and later refuse or
	// ignore it, and before 4.x it could not be changed once set.
	if isSet(r.KernelTCP) {
		if err := writeIfThere(dir, "memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(*r.KernelTCP, 10)); err != nil {
			return err
		}
	}
	if r.DisableOOMKiller != nil && *r.DisableOOMKiller {
		if err := write(dir, "memory.oom_control", "1"); err != nil {
			return err
		}
	}
	// ^0 is the -1 of old clients: not set.
	if r.Swappiness == nil || *r.Swappiness == ^uint64(0) {
		return nil
	}
	if *r.Swappiness > 100 {
		return fmt.Errorf("invalid memory swappiness value: %d (valid range is 0-100): %w", *r.Swappiness, errdefs.ErrInvalidArgument)
	}
	return write(dir, "memory.swappiness", strconv.FormatUint(*r.Swappiness, 10))
}

// setMemoryAndSwapV1 keeps the limit of memory and swap at or above that of
// memory at every moment, since the kernel refuses anything else.
func setMemoryAndSwapV1(dir string, limit, swap int64) error {
	if limit == -1 && swap == 0 {
		if _, err := read(dir, swapLimit); err == nil { // swap is accounted
			swap = -1
		}
	}
	swapFirst := false
	if limit != 0 && swap != 0 {
		now, err := readUint(dir, memoryLimit)
		if err != nil {
			return err
		}
		swapFirst = swap == -1 || now < uint64(swap)
	}
	setSwap := func() error {
		if swap == 0 {
			return nil
		}
		return write(dir, swapLimit, strconv.FormatInt(swap, 10))
	}
	if swapFirst {
		if err := setSwap(); err != nil {
			return err
		}
	}
	if err := setLimitV1(dir, limit); err != nil || swapFirst {
		return err
	}
	return setSwap()
}

func setLimitV1(dir string, limit int64) error {
	if limit == 0 {
		return nil
	}
	err := write(dir, memoryLimit, strconv.FormatInt(limit, 10))
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	usage, _ := readUint(dir, "memory.usage_in_bytes") // for the message only
	peak, _ := readUint(dir, "memory.max_usage_in_bytes")
	return fmt.Errorf("unable to set memory limit to %d (current usage: %d, peak usage: %d): %w", limit, usage, peak, err)
}

func setCpusetV1(dir string, r *specs.LinuxCPU) error {
	if r == nil {
		return nil
	}
	if r.Cpus != "" {
		if err := write(dir, "cpuset.cpus", r.Cpus); err != nil {
			return err
		}
	}
	if r.Mems != "" {
		return write(dir, "cpuset.mems", r.Mems)
	}
	return nil
}

func setCPUV1(dir string, r *specs.LinuxCPU) error {
	if r == nil {
		return nil
	}
	if isSet(r.Shares) {
		if err := setShares(dir, *r.Shares); err != nil {
			return err
		}
	}
	if err := setBandwidthV1(dir, r); err != nil {
		return err
	}
	if r.Idle != nil {
		if err := write(dir, "cpu.idle", strconv.FormatInt(*r.Idle, 10)); err != nil {
			return err
		}
	}
	return setRealtime(dir, r)
}

// setShares reports a value that the kernel brought into its range.
func setShares(dir string, shares uint64) error {
	if err := write(dir, "cpu.shares", strconv.FormatUint(shares, 10)); err != nil {
		return err
	}
	got, err := readUint(dir, "cpu.shares")
	switch {
	case err != nil:
		return err
	case got < shares:
		return fmt.Errorf("the maximum allowed cpu-shares is %d: %w", got, errdefs.ErrInvalidArgument)
	case got > shares:
		return fmt.Errorf("the minimum allowed cpu-shares is %d: %w", got, errdefs.ErrInvalidArgument)
	}
	return nil
}

// An assignment is a value for a control file; optional ones may be missing.
type assignment struct {
	file, value string
	optional    bool
}

// writeTogether writes values that the kernel checks against each other, so
// that some of them may only be taken (EINVAL before) after a later one.
func writeTogether(dir string, todo []assignment) error {
	for {
		var refused []assignment
		var first error
		for _, a := range todo {
			err := write(dir, a.file, a.value)
			if err == nil || a.optional && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if !errors.Is(err, unix.EINVAL) {
				return err
			}
			refused = append(refused, a)
			if first == nil {
				first = err
			}
		}
		if len(refused) == 0 || len(refused) == len(todo) {
			return first
		}
		todo = refused
	}
}

func setBandwidthV1(dir string, r *specs.LinuxCPU) error {
	var todo []assignment
	if isSet(r.Period) {
		todo = append(todo, assignment{"cpu.cfs_period_us", strconv.FormatUint(*r.Period, 10), false})
	}
	if r.Burst != nil { // Linux 5.14
		todo = append(todo, assignment{"cpu.cfs_burst_us", strconv.FormatUint(*r.Burst, 10), true})
	}
	if isSet(r.Quota) {
		todo = append(todo, assignment{"cpu.cfs_quota_us", strconv.FormatInt(*r.Quota, 10), false})
	}
	return writeTogether(dir, todo)
}

func setRealtime(dir string, r *specs.LinuxCPU) error {
	var todo []assignment
	if isSet(r.RealtimePeriod) {
		todo = append(todo, assignment{"cpu.rt_period_us", strconv.FormatUint(*r.RealtimePeriod, 10), false})
	}
	if isSet(r.RealtimeRuntime) {
		todo = append(todo, assignment{"cpu.rt_runtime_us", strconv.FormatInt(*r.RealtimeRuntime, 10), false})
	}
	return writeTogether(dir, todo)
}

// setPids serves both versions. The kernel takes 0, systemd does not: 0 means
// 1, which leaves no room either once the init is there.
func setPids(dir string, r *specs.LinuxPids) error {
	if r == nil || r.Limit == nil {
		return nil
	}
	limit := "max"
	if *r.Limit >= 0 {
		limit = strconv.FormatInt(max(*r.Limit, 1), 10)
	}
	return write(dir, "pids.max", limit)
}

func setBlkio(dir string, r *specs.LinuxBlockIO) error {
	if r == nil {
		return nil
	}
	if isSet(r.Weight) {
		if err := writeWeight(dir, "weight", strconv.Itoa(int(*r.Weight))); err != nil {
			return err
		}
	}
	if isSet(r.LeafWeight) {
		if err := write(dir, "blkio.leaf_weight", strconv.Itoa(int(*r.LeafWeight))); err != nil {
			return err
		}
	}
	for _, d := range r.WeightDevice {
		if isSet(d.Weight) {
			if err := writeWeight(dir, "weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight)); err != nil {
				return err
			}
		}
		if isSet(d.LeafWeight) {
			if err := write(dir, "blkio.leaf_weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.LeafWeight)); err != nil {
				return err
			}
		}
	}
	return eachThrottle(r, func(t throttle) error {
		return write(dir, "blkio.throttle."+t.v1, fmt.Sprintf("%d:%d %d", t.Major, t.Minor, t.Rate))
	})
}

// writeWeight writes to the file of CFQ, which Linux 5.0 dropped, or to BFQ's.
func writeWeight(dir, file, value string) error {
	err := write(dir, "blkio."+file, value)
	if errors.Is(err, fs.ErrNotExist) {
		err = write(dir, "blkio.bfq."+file, value)
	}
	return err
}

// A throttle is a limit of one kind for one device.
type throttle struct {
	v1 string // its file in version 1
	v2 string // its key in io.max
	specs.LinuxThrottleDevice
}

func eachThrottle(r *specs.LinuxBlockIO, do func(throttle) error) error {
	for _, kind := range []struct {
		v1, v2  string
		devices []specs.LinuxThrottleDevice
	}{
		{"read_bps_device", "rbps", r.ThrottleReadBpsDevice},
		{"write_bps_device", "wbps", r.ThrottleWriteBpsDevice},
		{"read_iops_device", "riops", r.ThrottleReadIOPSDevice},
		{"write_iops_device", "wiops", r.ThrottleWriteIOPSDevice},
	} {
		for _, d := range kind.devices {
			if err := do(throttle{kind.v1, kind.v2, d}); err != nil {
				return err
			}
		}
	}
	return nil
}

// setHugetlb serves both versions, whose files end differently. Where the
// kernel can (Linux 5.7), reservations are limited too, since a process that
// passes the other limit dies of SIGBUS.
func setHugetlb(dir, file string, limits []specs.LinuxHugepageLimit) error {
	for _, l := range limits {
		if err := plainName(l.Pagesize); err != nil {
			return fmt.Errorf("hugepage size: %w", err)
		}
		prefix, limit := "hugetlb."+l.Pagesize+".", strconv.FormatUint(l.Limit, 10)
		if err := write(dir, prefix+file, limit); err != nil {
			return err
		}
		if err := writeIfThere(dir, prefix+"rsvd."+file, limit); err != nil {
			return err
		}
	}
	return nil
}

func setNetwork(classes, priorities string, r *specs.LinuxNetwork) error {
	if r == nil {
		return nil
	}
	if r.ClassID != nil && *r.ClassID != 0 {
		if err := write(classes, "net_cls.classid", strconv.FormatUint(uint64(*r.ClassID), 10)); err != nil {
			return err
		}
	}
	for _, p := range r.Priorities {
		if err := write(priorities, "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority)); err != nil {
			return err
		}
	}
	return nil
}

// setRdma serves both versions.
func setRdma(dir string, devices map[string]specs.LinuxRdma) error {
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		line, d := name, devices[name]
		if d.HcaHandles != nil {
			line += fmt.Sprintf(" hca_handle=%d", *d.HcaHandles)
		}
		if d.HcaObjects != nil {
			line += fmt.Sprintf(" hca_object=%d", *d.HcaObjects)
		}
		if err := write(dir, "rdma.max", line); err != nil {
			return err
		}
	}
	return nil
}
