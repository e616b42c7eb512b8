// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setV2 sets limits in version 2 (Documentation/admin-guide/cgroup-v2.rst).
// What only version 1 has (swappiness, the OOM killer, network classes,
// realtime) is not set, as with runc.
func (m *Manager) setV2(r *specs.LinuxResources) error {
	dir := m.dirs[unified]
	steps := []func() error{
		func() error { return setPids(dir, r.Pids) },
		func() error { return setMemoryV2(dir, r.Memory) },
		func() error { return setIO(dir, r.BlockIO) },
		func() error { return setCPUV2(dir, r.CPU) },
		func() error { return setCpusetV1(dir, r.CPU) }, // the files are the same
		func() error { return setHugetlb(dir, "max", r.HugepageLimits) },
		func() error { return setRdma(dir, r.Rdma) },
		func() error { return setUnified(dir, r.Unified) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// check rejects a limit below what is used, where the caller asks for that:
// version 2 would kill processes.
func (m *Manager) check(r *specs.LinuxResources) error {
	if !m.v2 || r.Memory == nil || r.Memory.CheckBeforeUpdate == nil || !*r.Memory.CheckBeforeUpdate {
		return nil
	}
	usage, err := readUint(m.dirs[unified], "memory.current")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no limit can be set either
	}
	if err != nil {
		return err
	}
	if limit := value(r.Memory.Limit); limit > 0 && uint64(limit) < usage {
		return fmt.Errorf("rejecting memory limit %d below usage %d: %w", limit, usage, errdefs.ErrFailedPrecondition)
	}
	if swap := value(r.Memory.Swap); swap > 0 && uint64(swap) < usage {
		return fmt.Errorf("rejecting memory+swap limit %d below usage %d: %w", swap, usage, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func setMemoryV2(dir string, r *specs.LinuxMemory) error {
	if r == nil {
		return nil
	}
	swap, err := swapMax(value(r.Limit), value(r.Swap))
	if err != nil {
		return err
	}
	if swap != "" {
		err := write(dir, "memory.swap.max", swap)
		// Kernels without swap accounting do not have the file, which is
		// as good as no swap and no limit.
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && (swap == "0" || swap == "max") && dir != "") {
			return err
		}
	}
	if isSet(r.Limit) {
		if err := write(dir, "memory.max", limitV2(*r.Limit)); err != nil {
			return err
		}
	}
	if isSet(r.Reservation) {
		return write(dir, "memory.low", limitV2(*r.Reservation))
	}
	return nil
}

func limitV2(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// swapMax is the limit of swap alone that follows from version 1's limits of
// memory and of memory with swap; "" is none to set.
func swapMax(limit, swap int64) (string, error) {
	switch {
	case limit == -1 && swap == 0, swap < 0:
		return "max", nil
	case swap == 0:
		return "", nil
	case limit <= 0:
		return "", fmt.Errorf("unable to set swap limit without memory limit: %w", errdefs.ErrInvalidArgument)
	case swap < limit:
		return "", fmt.Errorf("memory+swap limit %d is below the memory limit %d: %w", swap, limit, errdefs.ErrInvalidArgument)
	}
	return strconv.FormatInt(swap-limit, 10), nil
}

func setCPUV2(dir string, r *specs.LinuxCPU) error {
	if r == nil {
		return nil
	}
	idle := r.Idle != nil && *r.Idle == 1
	if r.Idle != nil { // Linux 5.15
		if err := write(dir, "cpu.idle", strconv.FormatInt(*r.Idle, 10)); err != nil {
			return err
		}
	}
	if isSet(r.Shares) && !idle { // an idle group has no weight
		if err := write(dir, "cpu.weight", strconv.FormatUint(Weight(*r.Shares), 10)); err != nil {
			return err
		}
	}
	var todo []assignment
	if r.Burst != nil { // Linux 5.14
		todo = append(todo, assignment{"cpu.max.burst", strconv.FormatUint(*r.Burst, 10), true})
	}
	if isSet(r.Quota) || isSet(r.Period) {
		todo = append(todo, assignment{"cpu.max", bandwidth(value(r.Quota), value(r.Period)), false})
	}
	return writeTogether(dir, todo)
}

// completeBandwidth takes the one of two numbers that is not given from what is
// in force: version 2 and systemd set both at once.
func completeBandwidth(dir string, quota int64, period uint64) (int64, uint64) {
	text, err := read(dir, "cpu.max")
	if quota != 0 && period != 0 || err != nil {
		return quota, period
	}
	nowQuota, nowPeriod, err := parseBandwidth(text)
	if err != nil {
		return quota, period
	}
	if quota == 0 {
		quota = nowQuota
	}
	if period == 0 {
		period = nowPeriod
	}
	return quota, period
}

// completeSwap takes the limit of memory from what is in force, where only one
// with swap is given.
func completeSwap(dir string, limit, swap int64) int64 {
	if limit != 0 || swap <= 0 {
		return limit
	}
	if now, err := readUint(dir, "memory.max"); err == nil && now <= math.MaxInt64 {
		return int64(now)
	}
	return limit
}

// complete adds to limits what version 2 and systemd need to set them.
func (m *Manager) complete(r *specs.LinuxResources) *specs.LinuxResources {
	dir := m.dirs[unified]
	if !m.v2 || dir == "" {
		return r
	}
	out := *r
	if r.CPU != nil && isSet(r.CPU.Quota) != isSet(r.CPU.Period) {
		cpu := *r.CPU
		quota, period := completeBandwidth(dir, value(cpu.Quota), value(cpu.Period))
		cpu.Quota, cpu.Period = &quota, &period
		out.CPU = &cpu
	}
	if r.Memory != nil {
		memory := *r.Memory
		if limit := completeSwap(dir, value(memory.Limit), value(memory.Swap)); limit != 0 {
			memory.Limit = &limit
		}
		out.Memory = &memory
	}
	return &out
}

// defaultPeriod is the kernel's, in microseconds.
const defaultPeriod = 100_000

func bandwidth(quota int64, period uint64) string {
	limit := "max"
	if quota > 0 {
		limit = strconv.FormatInt(quota, 10)
	}
	if period == 0 {
		period = defaultPeriod
	}
	return limit + " " + strconv.FormatUint(period, 10)
}

// Weight converts CPU shares (2 to 262144, usually 1024) to a weight of version
// 2 (1 to 10000, usually 100) along the curve that runc 1.3.2 and crun 1.23
// introduced, which meets all three points.
func Weight(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 1<<18:
		return 10_000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func setIO(dir string, r *specs.LinuxBlockIO) error {
	if r == nil {
		return nil
	}
	if isSet(r.Weight) || len(r.WeightDevice) > 0 {
		if err := setIOWeight(dir, r); err != nil {
			return err
		}
	}
	return eachThrottle(r, func(t throttle) error {
		return write(dir, "io.max", fmt.Sprintf("%d:%d %s=%d", t.Major, t.Minor, t.v2, t.Rate))
	})
}

// setIOWeight writes BFQ's weights as they are, where that scheduler is
// loaded, and converts the range 10 to 1000 to 1 to 10000 for io.weight.
func setIOWeight(dir string, r *specs.LinuxBlockIO) error {
	file, weight := "io.bfq.weight", func(w uint16) uint64 { return uint64(w) }
	if _, err := read(dir, file); errors.Is(err, fs.ErrNotExist) {
		file, weight = "io.weight", func(w uint16) uint64 { return 1 + (max(uint64(w), 10)-10)*9999/990 }
	}
	if isSet(r.Weight) {
		if err := write(dir, file, strconv.FormatUint(weight(*r.Weight), 10)); err != nil {
			return err
		}
	}
	for _, d := range r.WeightDevice {
		if !isSet(d.Weight) {
			continue
		}
		if err := write(dir, file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, weight(*d.Weight))); err != nil {
			return err
		}
	}
	return nil
}

// setUnified writes control files by name. What it says wins over the other
// limits.
func setUnified(dir string, files map[string]string) error {
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := plainName(file); err != nil {
			return fmt.Errorf("unified resource: %w", err)
		}
		controller, _, ok := strings.Cut(file, ".")
		if !ok || controller == "" {
			return fmt.Errorf("unified resource %q must be in the form CONTROLLER.PARAMETER: %w", file, errdefs.ErrInvalidArgument)
		}
		for line := range strings.SplitSeq(files[file], "\n") { // of io.max, for each device
			err := write(dir, file, line)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				if have, _ := read(dir, "cgroup.controllers"); !slices.Contains(strings.Fields(have), controller) {
					return fmt.Errorf("unified resource %q can't be set: controller %q not available: %w", file, controller, err)
				}
			}
			if err != nil {
				return fmt.Errorf("unified resource: %w", err)
			}
		}
	}
	return nil
}

// plainName rejects what is not the name of a file in the group.
func plainName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q must be a file name: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}
