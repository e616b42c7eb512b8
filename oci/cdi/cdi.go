// SPDX-License-Identifier: Apache-2.0

// Package cdi gives containers devices by the names that vendors describe them
// under (Container Device Interface, specification 0.8 and later).
//
// A device is named vendor/class=name; what it takes, nodes, mounts,
// environment and hooks, is in files of the spec directories. The files are
// read each time, none are watched.
package cdi

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"slipway/oci"
)

// IsName tells the name of a device from a path.
func IsName(s string) bool { return parser.IsQualifiedName(s) }

// Devices are those that the files of some directories describe.
type Devices struct {
	Dirs []string // /etc/cdi and /var/run/cdi if empty; later ones win
}

func (d Devices) cache() (*cdi.Cache, error) {
	options := []cdi.Option{cdi.WithAutoRefresh(false)}
	if len(d.Dirs) > 0 {
		options = append(options, cdi.WithSpecDirs(d.Dirs...))
	}
	return cdi.NewCache(options...)
}

// With adds devices to a spec. One that no file describes is
// errdefs.ErrNotFound.
func (d Devices) With(names ...string) oci.Opt {
	return func(_ context.Context, s *specs.Spec) error {
		cache, err := d.cache()
		if err != nil {
			return fmt.Errorf("CDI: %w", err)
		}
		unknown, err := cache.InjectDevices(s, names...)
		if len(unknown) > 0 {
			return fmt.Errorf("CDI devices %s in %s: %w", strings.Join(unknown, ", "), strings.Join(cache.GetSpecDirectories(), ", "), errdefs.ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("CDI devices %s: %w", strings.Join(names, ", "), err)
		}
		return nil
	}
}

// gpuVendors are asked in turn for numbered GPUs.
var gpuVendors = []string{"nvidia.com", "amd.com", "intel.com"}

// WithGPUs adds GPUs by their numbers, of the first vendor that has any.
func (d Devices) WithGPUs(numbers ...string) oci.Opt {
	return func(ctx context.Context, s *specs.Spec) error {
		cache, err := d.cache()
		if err != nil {
			return fmt.Errorf("CDI: %w", err)
		}
		known := cache.ListDevices()
		for _, vendor := range gpuVendors {
			kind := vendor + "/gpu="
			if !slices.ContainsFunc(known, func(name string) bool { return strings.HasPrefix(name, kind) }) {
				continue
			}
			var names []string
			for _, n := range numbers {
				names = append(names, kind+n)
			}
			return d.With(names...)(ctx, s)
		}
		return fmt.Errorf("GPU of %s in %s: %w", strings.Join(gpuVendors, ", "), strings.Join(cache.GetSpecDirectories(), ", "), errdefs.ErrNotFound)
	}
}
