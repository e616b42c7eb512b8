// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stats reads what the container uses. A controller or file that the host
// does not have leaves its part zero.
func (m *Manager) Stats() (*Stats, error) {
	s := &Stats{Hugetlb: map[string]Hugetlb{}}
	c := collector{stats: s}
	if m.v2 {
		c.v2(m.dirs[unified])
	} else {
		c.v1(m.dirs)
	}
	if c.err != nil {
		return nil, fmt.Errorf("cgroup: stats: %w", c.err)
	}
	return s, nil
}

// A collector keeps the first error that is more than a missing file.
type collector struct {
	stats *Stats
	err   error
}

// failed notes an error and says whether there is nothing to use.
func (c *collector) failed(err error) bool {
	if err == nil {
		return false
	}
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV)
	if !missing && c.err == nil {
		c.err = err
	}
	return true
}

func (c *collector) number(dir, file string) uint64 {
	if dir == "" {
		return 0
	}
	n, err := readUint(dir, file)
	c.failed(err)
	return n
}

func (c *collector) keys(dir, file string) map[string]uint64 {
	if dir == "" {
		return nil
	}
	keys, err := readKeys(dir, file)
	c.failed(err)
	return keys
}

func (c *collector) text(dir, file string) string {
	if dir == "" {
		return ""
	}
	text, err := read(dir, file)
	c.failed(err)
	return text
}

func (c *collector) numbers(dir, file string) []uint64 {
	var out []uint64
	for _, field := range strings.Fields(c.text(dir, file)) {
		if n, err := strconv.ParseUint(field, 10, 64); err == nil {
			out = append(out, n)
		}
	}
	return out
}

func (c *collector) v2(dir string) {
	s, usec := c.stats, uint64(time.Microsecond)
	cpu := c.keys(dir, "cpu.stat")
	s.CPU.Usage = CPUUsage{Total: cpu["usage_usec"] * usec, Kernel: cpu["system_usec"] * usec, User: cpu["user_usec"] * usec}
	s.CPU.Throttling = Throttling{cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"] * usec}
	s.CPU.PSI = c.pressure(dir, "cpu.pressure")

	s.Memory.Raw = c.keys(dir, "memory.stat")
	s.Memory.Cache = s.Memory.Raw["file"]
	s.Memory.Usage = c.memoryV2(dir, "memory")
	swap := c.memoryV2(dir, "memory.swap") // swap alone
	s.Memory.Swap = MemoryEntry{Limit: addLimit(s.Memory.Usage.Limit, swap.Limit), Usage: s.Memory.Usage.Usage + swap.Usage, Failcnt: swap.Failcnt}
	s.Memory.PSI = c.pressure(dir, "memory.pressure")
	s.MemoryEvents = c.keys(dir, "memory.events")
	s.OOMKills = s.MemoryEvents["oom_kill"]
	s.Memory.Usage.Failcnt = s.MemoryEvents["max"]

	s.Pids = c.pids(dir)
	c.ioStat(dir)
	s.Blkio.PSI = c.pressure(dir, "io.pressure")
	c.hugetlb(dir, "current", "", "events")
	c.rdma(dir)
}

func addLimit(a, b uint64) uint64 {
	if a == math.MaxUint64 || b == math.MaxUint64 {
		return math.MaxUint64
	}
	return a + b
}

func (c *collector) memoryV2(dir, prefix string) MemoryEntry {
	e := MemoryEntry{Usage: c.number(dir, prefix+".current"), Limit: c.number(dir, prefix+".max"), Max: c.number(dir, prefix+".peak")}
	return e
}

func (c *collector) v1(dirs map[string]string) {
	s := c.stats
	c.cpuV1(dirs["cpu"], dirs["cpuacct"])
	c.cpusetV1(dirs["cpuset"])
	memory := dirs["memory"]
	s.Memory.Raw = c.keys(memory, "memory.stat")
	s.Memory.Cache = s.Memory.Raw["cache"]
	s.Memory.Usage = c.memoryV1(memory, "memory.")
	s.Memory.Swap = c.memoryV1(memory, "memory.memsw.")
	s.Memory.Kernel = c.memoryV1(memory, "memory.kmem.")
	s.Memory.KernelTCP = c.memoryV1(memory, "memory.kmem.tcp.")
	s.OOMKills = c.keys(memory, "memory.oom_control")["oom_kill"]
	s.Pids = c.pids(dirs["pids"])
	c.blkioV1(dirs["blkio"])
	c.hugetlb(dirs["hugetlb"], "usage_in_bytes", "max_usage_in_bytes", "failcnt")
	c.rdma(dirs["rdma"])
}

func (c *collector) memoryV1(dir, prefix string) MemoryEntry {
	return MemoryEntry{
		Limit: c.number(dir, prefix+"limit_in_bytes"), Usage: c.number(dir, prefix+"usage_in_bytes"),
		Max: c.number(dir, prefix+"max_usage_in_bytes"), Failcnt: c.number(dir, prefix+"failcnt"),
	}
}

// userHZ is the unit of cpuacct.stat, which is the same on all machines that
// Go supports.
const userHZ = 100

func (c *collector) cpuV1(cpu, acct string) {
	s := c.stats
	throttled := c.keys(cpu, "cpu.stat")
	s.CPU.Throttling = Throttling{throttled["nr_periods"], throttled["nr_throttled"], throttled["throttled_time"]}
	ticks := c.keys(acct, "cpuacct.stat")
	tick := uint64(time.Second / userHZ)
	s.CPU.Usage = CPUUsage{Total: c.number(acct, "cpuacct.usage"), User: ticks["user"] * tick, Kernel: ticks["system"] * tick}
	s.CPU.Usage.Percpu = c.numbers(acct, "cpuacct.usage_percpu")
	for line := range strings.Lines(c.text(acct, "cpuacct.usage_all")) { // cpu user system
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "cpu" {
			continue
		}
		user, _ := strconv.ParseUint(f[1], 10, 64)
		kernel, _ := strconv.ParseUint(f[2], 10, 64)
		s.CPU.Usage.PercpuUser = append(s.CPU.Usage.PercpuUser, user)
		s.CPU.Usage.PercpuKernel = append(s.CPU.Usage.PercpuKernel, kernel)
	}
}

func (c *collector) cpusetV1(dir string) {
	if dir == "" {
		return
	}
	c.stats.CPUSet = CPUSet{
		CPUs: parseList(c.text(dir, "cpuset.cpus")), Mems: parseList(c.text(dir, "cpuset.mems")),
		CPUExclusive: c.number(dir, "cpuset.cpu_exclusive"), MemHardwall: c.number(dir, "cpuset.mem_hardwall"),
		MemExclusive: c.number(dir, "cpuset.mem_exclusive"), MemoryMigrate: c.number(dir, "cpuset.memory_migrate"),
		MemorySpreadPage: c.number(dir, "cpuset.memory_spread_page"), MemorySpreadSlab: c.number(dir, "cpuset.memory_spread_slab"),
		MemoryPressure: c.number(dir, "cpuset.memory_pressure"), SchedLoadBalance: c.number(dir, "cpuset.sched_load_balance"),
		SchedRelaxDomainLevel: int64(c.number(dir, "cpuset.sched_relax_domain_level")),
	}
}

// parseList reads "0-3,7" (cpuset(7), "List format").
func parseList(text string) []uint16 {
	var out []uint16
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		low, high, ranged := strings.Cut(part, "-")
		first, err := strconv.ParseUint(low, 10, 16)
		last := first
		if ranged && err == nil {
			last, err = strconv.ParseUint(high, 10, 16)
		}
		if err != nil {
			continue
		}
		for n := first; n <= last; n++ {
			out = append(out, uint16(n))
		}
	}
	return out
}

func (c *collector) pids(dir string) Pids {
	p := Pids{Current: c.number(dir, "pids.current"), Limit: c.number(dir, "pids.max")}
	if p.Limit == math.MaxUint64 {
		p.Limit = 0
	}
	return p
}

// ioStat reads io.stat of version 2: "major:minor rbytes=… wbytes=… rios=…".
func (c *collector) ioStat(dir string) {
	b := &c.stats.Blkio
	for line := range strings.Lines(c.text(dir, "io.stat")) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := parseDev(f[0])
		if !ok {
			continue
		}
		for _, field := range f[1:] {
			key, text, _ := strings.Cut(field, "=")
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				continue
			}
			list, op := &b.IoServiceBytesRecursive, ""
			switch key {
			case "rbytes":
				op = "Read"
			case "wbytes":
				op = "Write"
			case "rios":
				list, op = &b.IoServicedRecursive, "Read"
			case "wios":
				list, op = &b.IoServicedRecursive, "Write"
			default:
				continue
			}
			*list = append(*list, BlkioEntry{major, minor, op, n})
		}
	}
}

func parseDev(text string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(text, ":")
	major, err1 := strconv.ParseUint(a, 10, 64)
	minor, err2 := strconv.ParseUint(b, 10, 64)
	return major, minor, ok && err1 == nil && err2 == nil
}

// blkioV1 reads the counters of BFQ or CFQ, or where the scheduler is another
// one those of throttling, which are always there.
func (c *collector) blkioV1(dir string) {
	b := &c.stats.Blkio
	for _, prefix := range []string{"blkio.bfq.", "blkio."} {
		b.IoServiceBytesRecursive = c.blkioFile(dir, prefix+"io_service_bytes_recursive")
		b.IoServicedRecursive = c.blkioFile(dir, prefix+"io_serviced_recursive")
		b.IoQueuedRecursive = c.blkioFile(dir, prefix+"io_queued_recursive")
		b.IoServiceTimeRecursive = c.blkioFile(dir, prefix+"io_service_time_recursive")
		b.IoWaitTimeRecursive = c.blkioFile(dir, prefix+"io_wait_time_recursive")
		b.IoMergedRecursive = c.blkioFile(dir, prefix+"io_merged_recursive")
		b.IoTimeRecursive = c.blkioFile(dir, prefix+"time_recursive")
		b.SectorsRecursive = c.blkioFile(dir, prefix+"sectors_recursive")
		if len(b.IoServicedRecursive) > 0 {
			return
		}
	}
	b.IoServiceBytesRecursive = c.blkioFile(dir, "blkio.throttle.io_service_bytes_recursive")
	b.IoServicedRecursive = c.blkioFile(dir, "blkio.throttle.io_serviced_recursive")
}

// blkioFile reads "major:minor Op n" or "major:minor n" lines.
func (c *collector) blkioFile(dir, file string) []BlkioEntry {
	var out []BlkioEntry
	for line := range strings.Lines(c.text(dir, file)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := parseDev(f[0])
		n, err := strconv.ParseUint(f[len(f)-1], 10, 64)
		if !ok || err != nil {
			continue // the total
		}
		op := ""
		if len(f) == 3 {
			op = f[1]
		}
		out = append(out, BlkioEntry{major, minor, op, n})
	}
	return out
}

func (c *collector) hugetlb(dir, usage, peak, failures string) {
	if dir == "" {
		return
	}
	files, _ := filepath.Glob(dir + "/hugetlb.*." + usage)
	for _, file := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hugetlb."), "."+usage)
		if strings.HasSuffix(size, ".rsvd") {
			continue // of the page size without this ending
		}
		prefix := "hugetlb." + size + "."
		h := Hugetlb{Usage: c.number(dir, prefix+usage)}
		if peak != "" {
			h.Max, h.Failcnt = c.number(dir, prefix+peak), c.number(dir, prefix+failures)
		} else {
			h.Failcnt = c.keys(dir, prefix+failures)["max"]
		}
		c.stats.Hugetlb[size] = h
	}
}

// rdma reads "device hca_handle=n hca_object=n" lines.
func (c *collector) rdma(dir string) {
	limits := map[string][2]uint64{}
	for line := range strings.Lines(c.text(dir, "rdma.max")) {
		name, n := parseRdma(line)
		limits[name] = n
	}
	for line := range strings.Lines(c.text(dir, "rdma.current")) {
		name, n := parseRdma(line)
		c.stats.Rdma = append(c.stats.Rdma, Rdma{name, n[0], n[1], limits[name][0], limits[name][1]})
	}
}

func parseRdma(line string) (device string, counts [2]uint64) {
	for i, field := range strings.Fields(line) {
		key, text, _ := strings.Cut(field, "=")
		n, _ := parseUint(text)
		switch {
		case i == 0:
			device = field
		case key == "hca_handle":
			counts[0] = n
		case key == "hca_object":
			counts[1] = n
		}
	}
	return device, counts
}

// pressure reads "some avg10=… avg60=… avg300=… total=…" and the same of full.
func (c *collector) pressure(dir, file string) *PSI {
	text, err := read(dir, file)
	if c.failed(err) || text == "" {
		return nil
	}
	p := &PSI{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		to := &p.Some
		if f[0] == "full" {
			to = &p.Full
		}
		for _, field := range f[1:] {
			key, text, _ := strings.Cut(field, "=")
			switch key {
			case "avg10":
				to.Avg10, _ = strconv.ParseFloat(text, 64)
			case "avg60":
				to.Avg60, _ = strconv.ParseFloat(text, 64)
			case "avg300":
				to.Avg300, _ = strconv.ParseFloat(text, 64)
			case "total":
				to.Total, _ = strconv.ParseUint(text, 10, 64)
			}
		}
	}
	return p
}
