// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// WithCgroup sets the path of the container's cgroup.
func WithCgroup(path string) Opt {
	return edit(func(s *specs.Spec) { linux(s).CgroupsPath = path })
}

// WithMemoryLimit sets the most memory in bytes.
func WithMemoryLimit(bytes uint64) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		if bytes > math.MaxInt64 {
			return fmt.Errorf("memory limit %d: %w", bytes, errdefs.ErrInvalidArgument)
		}
		limit := int64(bytes)
		ensure(&resources(s).Memory).Limit = &limit
		return nil
	}
}

// WithCPUs sets how many CPUs' worth of time the container may use.
func WithCPUs(n float64) Opt {
	const period = 100_000 // µs
	return func(ctx context.Context, s *specs.Spec) error {
		if !(n > 0 && n < 1<<20) {
			return fmt.Errorf("cpus %v: %w", n, errdefs.ErrInvalidArgument)
		}
		return Apply(ctx, s, WithCPUPeriod(period), WithCPUQuota(int64(n*period)))
	}
}

// WithCPUQuota sets the time in µs of each period, -1 for no limit.
func WithCPUQuota(quota int64) Opt {
	return edit(func(s *specs.Spec) { cpu(s).Quota = &quota })
}

// WithCPUPeriod sets the period of the quota in µs.
func WithCPUPeriod(period uint64) Opt {
	return edit(func(s *specs.Spec) { cpu(s).Period = &period })
}

// WithCPUShares sets the weight against other cgroups, 1024 being normal.
func WithCPUShares(shares uint64) Opt {
	return edit(func(s *specs.Spec) { cpu(s).Shares = &shares })
}

// WithCPUSets binds the container to CPUs and memory nodes, "0-3,5". An
// empty one is not changed.
func WithCPUSets(cpus, mems string) Opt {
	return edit(func(s *specs.Spec) {
		if cpus != "" {
			cpu(s).Cpus = cpus
		}
		if mems != "" {
			cpu(s).Mems = mems
		}
	})
}

// WithPidsLimit sets the most processes and threads, -1 for no limit.
func WithPidsLimit(n int64) Opt {
	return edit(func(s *specs.Spec) { ensure(&resources(s).Pids).Limit = &n })
}

// WithRdt puts the container in a class of Intel RDT.
func WithRdt(class string) Opt {
	return edit(func(s *specs.Spec) { ensure(&linux(s).IntelRdt).ClosID = class })
}

func cpu(s *specs.Spec) *specs.LinuxCPU { return ensure(&resources(s).CPU) }
