// SPDX-License-Identifier: Apache-2.0

// Package blockio reads classes of block I/O: named sets of weights and limits
// of devices, in a YAML file.
//
//	Classes:
//	  slow:
//	    - Weight: 80                # of all devices
//	    - Devices: [/dev/disk/by-id/*-SSD-*]
//	      ThrottleReadBps: 60M      # and ThrottleWriteBps, …ReadIOPS, …WriteIOPS, Weight
//
// Later entries of a class win. Devices are named by patterns of paths, whose
// links are followed; quantities have the suffixes of Kubernetes (k, M, G and
// Ki, Mi, Gi).
package blockio

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"slipway/oci"
)

type config struct {
	Classes map[string][]entry `yaml:"Classes"`
}

type entry struct {
	Devices           []string `yaml:"Devices"`
	Weight            string   `yaml:"Weight"`
	ThrottleReadBps   string   `yaml:"ThrottleReadBps"`
	ThrottleWriteBps  string   `yaml:"ThrottleWriteBps"`
	ThrottleReadIOPS  string   `yaml:"ThrottleReadIOPS"`
	ThrottleWriteIOPS string   `yaml:"ThrottleWriteIOPS"`
}

// With puts a container into a class of the file.
func With(file, class string) oci.Opt {
	return func(_ context.Context, s *specs.Spec) error {
		if file == "" {
			return fmt.Errorf("block I/O class %q: no file of classes: %w", class, errdefs.ErrInvalidArgument)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("block I/O classes: %w", err)
		}
		block, err := Parse(data, class)
		if err != nil {
			return fmt.Errorf("block I/O classes %s: %w", file, err)
		}
		if s.Linux == nil {
			s.Linux = &specs.Linux{}
		}
		if s.Linux.Resources == nil {
			s.Linux.Resources = &specs.LinuxResources{}
		}
		s.Linux.Resources.BlockIO = block
		return nil
	}
}

// Parse returns a class of a document.
func Parse(data []byte, class string) (*specs.LinuxBlockIO, error) {
	var c config
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	entries, ok := c.Classes[class]
	if !ok {
		return nil, fmt.Errorf("class %q: %w", class, errdefs.ErrNotFound)
	}
	block := &specs.LinuxBlockIO{}
	for i, e := range entries {
		if err := e.add(block); err != nil {
			return nil, fmt.Errorf("class %s, entry %d: %w", class, i+1, err)
		}
	}
	return block, nil
}

// Weights have the range of cgroup v1; the runtime converts them.
const minWeight, maxWeight = 10, 1000

func (e entry) add(to *specs.LinuxBlockIO) error {
	weight, err := quantity("Weight", e.Weight)
	if err != nil {
		return err
	}
	if weight != nil && (*weight < minWeight || *weight > maxWeight) {
		return fmt.Errorf("Weight %s: not in %d…%d: %w", e.Weight, minWeight, maxWeight, errdefs.ErrInvalidArgument)
	}
	devices, err := find(e.Devices)
	if err != nil {
		return err
	}
	if weight != nil {
		setWeight(to, devices, uint16(*weight), e.Devices == nil)
	}
	for _, limit := range []struct {
		name, text string
		list       *[]specs.LinuxThrottleDevice
	}{
		{"ThrottleReadBps", e.ThrottleReadBps, &to.ThrottleReadBpsDevice},
		{"ThrottleWriteBps", e.ThrottleWriteBps, &to.ThrottleWriteBpsDevice},
		{"ThrottleReadIOPS", e.ThrottleReadIOPS, &to.ThrottleReadIOPSDevice},
		{"ThrottleWriteIOPS", e.ThrottleWriteIOPS, &to.ThrottleWriteIOPSDevice},
	} {
		rate, err := quantity(limit.name, limit.text)
		if err != nil {
			return err
		}
		if rate == nil {
			continue
		}
		if e.Devices == nil {
			return fmt.Errorf("%s without Devices: %w", limit.name, errdefs.ErrInvalidArgument)
		}
		setRate(limit.list, devices, *rate)
	}
	return nil
}

func setWeight(to *specs.LinuxBlockIO, devices []device, weight uint16, all bool) {
	if all {
		to.Weight = &weight
		return
	}
	for _, d := range devices {
		w := specs.LinuxWeightDevice{Weight: &weight}
		w.Major, w.Minor = d.major, d.minor
		to.WeightDevice = append(to.WeightDevice, w)
	}
}

func setRate(list *[]specs.LinuxThrottleDevice, devices []device, rate uint64) {
	for _, d := range devices {
		t := specs.LinuxThrottleDevice{Rate: rate}
		t.Major, t.Minor = d.major, d.minor
		*list = append(*list, t)
	}
}

type device struct{ major, minor int64 }

// find returns the block devices that patterns match. None is no error: the
// same file serves machines with other disks.
func find(patterns []string) (found []device, err error) {
	for _, p := range patterns {
		paths, err := filepath.Glob(p)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
		for _, path := range paths {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				return nil, &os.PathError{Op: "stat", Path: path, Err: err}
			}
			if st.Mode&unix.S_IFMT == unix.S_IFBLK {
				found = append(found, device{int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))})
			}
		}
	}
	return found, nil
}

var units = []struct {
	suffix string
	factor uint64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
	{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"", 1},
}

// quantity reads a number with a unit, nil if there is none.
func quantity(name, text string) (*uint64, error) {
	if text == "" {
		return nil, nil
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 64)
		if err == nil && n <= ^uint64(0)/u.factor {
			n *= u.factor
			return &n, nil
		}
		break
	}
	return nil, fmt.Errorf("%s %q: not a quantity such as 60M: %w", name, text, errdefs.ErrInvalidArgument)
}
