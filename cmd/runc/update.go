// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A change is what `runc update` is asked for, as text.
type change struct {
	file                   string
	blkioWeight, pidsLimit int
	pidsGiven              func() bool
	values                 map[string]*string
}

// updateFlags are the flags of update that take text.
var updateFlags = [][2]string{
	{"cpu-period", "CPU CFS period to be used for hardcapping (in usecs). 0 to use system default"},
	{"cpu-quota", "CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period"},
	{"cpu-burst", "CPU CFS hardcap burst limit (in usecs). Allowed accumulated cpu time additionally for burst a given period"},
	{"cpu-share", "CPU shares (relative weight vs. other containers)"},
	{"cpu-rt-period", "CPU realtime period to be used for hardcapping (in usecs). 0 to use system default"},
	{"cpu-rt-runtime", "CPU realtime hardcap limit (in usecs). Allowed cpu time in a given period"},
	{"cpuset-cpus", "CPU(s) to use"},
	{"cpuset-mems", "Memory node(s) to use"},
	{"kernel-memory", "(obsoleted; do not use)"},
	{"kernel-memory-tcp", "(obsoleted; do not use)"},
	{"memory", "Memory limit (in bytes)"},
	{"cpu-idle", "set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE"},
	{"memory-reservation", "Memory reservation or soft_limit (in bytes)"},
	{"memory-swap", "Total memory usage (memory + swap); set '-1' to enable unlimited swap"},
	{"l3-cache-schema", "The string of Intel RDT/CAT L3 cache schema"},
	{"mem-bw-schema", "The string of Intel RDT/MBA memory bandwidth schema"},
}

func update(f *flags) func(*app, []string) error {
	c := &change{values: map[string]*string{}, pidsGiven: func() bool { return f.isSet("pids-limit") }}
	f.StringVar(&c.file, "resources, r", "", "path to the file containing the resources to update or '-' to read from the standard input")
	f.IntVar(&c.blkioWeight, "blkio-weight", 0, "Specifies per cgroup weight, range is from 10 to 1000")
	for _, u := range updateFlags {
		c.values[u[0]] = new(string)
		f.StringVar(c.values[u[0]], u[0], "", u[1])
	}
	f.hide("kernel-memory")
	f.hide("kernel-memory-tcp")
	f.IntVar(&c.pidsLimit, "pids-limit", 0, "Maximum number of pids allowed in the container")
	return func(a *app, args []string) error {
		container, err := a.container(args[0])
		if err != nil {
			return err
		}
		r, err := c.resources(a)
		if err != nil {
			return err
		}
		if *c.values["kernel-memory"] != "" || *c.values["kernel-memory-tcp"] != "" {
			a.log.Warn("Kernel memory settings are ignored and will be removed")
		}
		if err := container.UpdateRdt(*c.values["l3-cache-schema"], *c.values["mem-bw-schema"]); err != nil {
			return err
		}
		return container.Update(background(), r)
	}
}

// resources are those of a file, or of the flags.
func (c *change) resources(a *app) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	if c.file == "" {
		return r, c.fromFlags(r)
	}
	in := io.Reader(a.stdin)
	if c.file != "-" {
		f, err := os.Open(c.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	if err := json.NewDecoder(in).Decode(r); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	r.Devices = nil // cannot be changed, as with runc
	return r, nil
}

func (c *change) fromFlags(r *specs.LinuxResources) error {
	r.CPU, r.Memory = &specs.LinuxCPU{Cpus: *c.values["cpuset-cpus"], Mems: *c.values["cpuset-mems"]}, &specs.LinuxMemory{}
	for flag, to := range map[string]**uint64{
		"cpu-burst": &r.CPU.Burst, "cpu-period": &r.CPU.Period, "cpu-rt-period": &r.CPU.RealtimePeriod, "cpu-share": &r.CPU.Shares,
	} {
		if err := parse(c, flag, to, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }); err != nil {
			return err
		}
	}
	for flag, to := range map[string]**int64{
		"cpu-quota": &r.CPU.Quota, "cpu-rt-runtime": &r.CPU.RealtimeRuntime, "cpu-idle": &r.CPU.Idle,
	} {
		if err := parse(c, flag, to, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }); err != nil {
			return err
		}
	}
	for flag, to := range map[string]**int64{
		"memory": &r.Memory.Limit, "memory-swap": &r.Memory.Swap, "memory-reservation": &r.Memory.Reservation,
	} {
		if err := parse(c, flag, to, parseSize); err != nil {
			return err
		}
	}
	if c.blkioWeight != 0 {
		weight := uint16(c.blkioWeight)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &weight}
	}
	if c.pidsGiven() {
		limit := int64(c.pidsLimit)
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return nil
}

// parse sets a field if its flag was given.
func parse[T any](c *change, flag string, to **T, read func(string) (T, error)) error {
	text := *c.values[flag]
	if text == "" {
		return nil
	}
	v, err := read(text)
	if err != nil {
		return fmt.Errorf("invalid value for %s: %w", flag, err)
	}
	*to = &v
	return nil
}

// parseSize reads a size like 64M, 1.5GiB or -1, in powers of 1024.
func parseSize(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	number, unit := text, ""
	if i := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' }); i >= 0 {
		number, unit = text[:i], strings.ToLower(strings.TrimSpace(text[i:]))
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil {
		return 0, fmt.Errorf("invalid size: '%s'", text)
	}
	if unit == "" {
		unit = "b"
	}
	power := strings.Index("bkmgtp", unit[:1])
	if rest := unit[1:]; power < 0 || rest != "" && rest != "b" && rest != "ib" {
		return 0, fmt.Errorf("invalid suffix: '%s'", unit)
	}
	return int64(n * float64(int64(1)<<(10*power))), nil
}
