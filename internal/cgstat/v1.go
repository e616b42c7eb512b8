// SPDX-License-Identifier: Apache-2.0

package cgstat

// The messages of io.containerd.cgroups.v1.Metrics. A tag `key` names the line
// of the control file that a field comes from.

type v1Metrics struct {
	Hugetlb          []*v1HugetlbStat    `pb:"1"`
	Pids             *v1PidsStat         `pb:"2"`
	CPU              *v1CPUStat          `pb:"3"`
	Memory           *v1MemoryStat       `pb:"4"`
	Blkio            *v1BlkIOStat        `pb:"5"`
	Rdma             *v1RdmaStat         `pb:"6"`
	Network          []*v1NetworkStat    `pb:"7"`
	CgroupStats      *v1CgroupStats      `pb:"8"`
	MemoryOOMControl *v1MemoryOOMControl `pb:"9"`
}

type v1HugetlbStat struct {
	Usage    uint64 `pb:"1"`
	Max      uint64 `pb:"2"`
	Failcnt  uint64 `pb:"3"`
	Pagesize string `pb:"4"`
}

type v1PidsStat struct {
	Current uint64 `pb:"1"`
	Limit   uint64 `pb:"2"`
}

type v1CPUStat struct {
	Usage      *v1CPUUsage `pb:"1"`
	Throttling *v1Throttle `pb:"2"`
}

type v1CPUUsage struct {
	Total  uint64   `pb:"1"`
	Kernel uint64   `pb:"2"`
	User   uint64   `pb:"3"`
	PerCPU []uint64 `pb:"4"`
}

type v1Throttle struct {
	Periods          uint64 `pb:"1" key:"nr_periods"`
	ThrottledPeriods uint64 `pb:"2" key:"nr_throttled"`
	ThrottledTime    uint64 `pb:"3" key:"throttled_time"`
}

type v1MemoryStat struct {
	Cache                   uint64         `pb:"1" key:"cache"`
	Rss                     uint64         `pb:"2" key:"rss"`
	RssHuge                 uint64         `pb:"3" key:"rss_huge"`
	MappedFile              uint64         `pb:"4" key:"mapped_file"`
	Dirty                   uint64         `pb:"5" key:"dirty"`
	Writeback               uint64         `pb:"6" key:"writeback"`
	PgPgIn                  uint64         `pb:"7" key:"pgpgin"`
	PgPgOut                 uint64         `pb:"8" key:"pgpgout"`
	PgFault                 uint64         `pb:"9" key:"pgfault"`
	PgMajFault              uint64         `pb:"10" key:"pgmajfault"`
	InactiveAnon            uint64         `pb:"11" key:"inactive_anon"`
	ActiveAnon              uint64         `pb:"12" key:"active_anon"`
	InactiveFile            uint64         `pb:"13" key:"inactive_file"`
	ActiveFile              uint64         `pb:"14" key:"active_file"`
	Unevictable             uint64         `pb:"15" key:"unevictable"`
	HierarchicalMemoryLimit uint64         `pb:"16" key:"hierarchical_memory_limit"`
	HierarchicalSwapLimit   uint64         `pb:"17" key:"hierarchical_memsw_limit"`
	TotalCache              uint64         `pb:"18" key:"total_cache"`
	TotalRss                uint64         `pb:"19" key:"total_rss"`
	TotalRssHuge            uint64         `pb:"20" key:"total_rss_huge"`
	TotalMappedFile         uint64         `pb:"21" key:"total_mapped_file"`
	TotalDirty              uint64         `pb:"22" key:"total_dirty"`
	TotalWriteback          uint64         `pb:"23" key:"total_writeback"`
	TotalPgPgIn             uint64         `pb:"24" key:"total_pgpgin"`
	TotalPgPgOut            uint64         `pb:"25" key:"total_pgpgout"`
	TotalPgFault            uint64         `pb:"26" key:"total_pgfault"`
	TotalPgMajFault         uint64         `pb:"27" key:"total_pgmajfault"`
	TotalInactiveAnon       uint64         `pb:"28" key:"total_inactive_anon"`
	TotalActiveAnon         uint64         `pb:"29" key:"total_active_anon"`
	TotalInactiveFile       uint64         `pb:"30" key:"total_inactive_file"`
	TotalActiveFile         uint64         `pb:"31" key:"total_active_file"`
	TotalUnevictable        uint64         `pb:"32" key:"total_unevictable"`
	Usage                   *v1MemoryEntry `pb:"33"`
	Swap                    *v1MemoryEntry `pb:"34"`
	Kernel                  *v1MemoryEntry `pb:"35"`
	KernelTCP               *v1MemoryEntry `pb:"36"`
}

type v1MemoryEntry struct {
	Limit   uint64 `pb:"1"`
	Usage   uint64 `pb:"2"`
	Max     uint64 `pb:"3"`
	Failcnt uint64 `pb:"4"`
}

type v1MemoryOOMControl struct {
	OOMKillDisable uint64 `pb:"1" key:"oom_kill_disable"`
	UnderOOM       uint64 `pb:"2" key:"under_oom"`
	OOMKill        uint64 `pb:"3" key:"oom_kill"`
}

type v1BlkIOStat struct {
	IOServiceBytesRecursive []*v1BlkIOEntry `pb:"1"`
	IOServicedRecursive     []*v1BlkIOEntry `pb:"2"`
	IOQueuedRecursive       []*v1BlkIOEntry `pb:"3"`
	IOServiceTimeRecursive  []*v1BlkIOEntry `pb:"4"`
	IOWaitTimeRecursive     []*v1BlkIOEntry `pb:"5"`
	IOMergedRecursive       []*v1BlkIOEntry `pb:"6"`
	IOTimeRecursive         []*v1BlkIOEntry `pb:"7"`
	SectorsRecursive        []*v1BlkIOEntry `pb:"8"`
}

type v1BlkIOEntry struct {
	Op     string `pb:"1"`
	Device string `pb:"2"`
	Major  uint64 `pb:"3"`
	Minor  uint64 `pb:"4"`
	Value  uint64 `pb:"5"`
}

type v1RdmaStat struct {
	Current []*v1RdmaEntry `pb:"1"`
	Limit   []*v1RdmaEntry `pb:"2"`
}

type v1RdmaEntry struct {
	Device     string `pb:"1"`
	HcaHandles uint32 `pb:"2"`
	HcaObjects uint32 `pb:"3"`
}

type v1NetworkStat struct {
	Name      string `pb:"1"`
	RxBytes   uint64 `pb:"2"`
	RxPackets uint64 `pb:"3"`
	RxErrors  uint64 `pb:"4"`
	RxDropped uint64 `pb:"5"`
	TxBytes   uint64 `pb:"6"`
	TxPackets uint64 `pb:"7"`
	TxErrors  uint64 `pb:"8"`
	TxDropped uint64 `pb:"9"`
}

type v1CgroupStats struct {
	NrSleeping        uint64 `pb:"1"`
	NrRunning         uint64 `pb:"2"`
	NrStopped         uint64 `pb:"3"`
	NrUninterruptible uint64 `pb:"4"`
	NrIOWait          uint64 `pb:"5"`
}

// metricsV1 reads the metrics of a container in cgroups of version 1.
func metricsV1(dirs map[string]string) *v1Metrics {
	m := &v1Metrics{}
	if d, ok := dirs["pids"]; ok {
		m.Pids = &v1PidsStat{Current: readNumber(d, "pids.current")}
		if max := readNumber(d, "pids.max"); max != 1<<64-1 {
			m.Pids.Limit = max
		}
	}
	if d, ok := dirs["cpuacct"]; ok {
		m.CPU = readCPUV1(d, dirs["cpu"])
	}
	if d, ok := dirs["memory"]; ok {
		m.Memory, m.MemoryOOMControl = readMemoryV1(d), &v1MemoryOOMControl{}
		readKeyed(d, "memory.oom_control", m.MemoryOOMControl)
	}
	if d, ok := dirs["blkio"]; ok {
		m.Blkio = readBlkioV1(d)
	}
	if d, ok := dirs["rdma"]; ok {
		m.Rdma = &v1RdmaStat{Current: readRdmaV1(d, "rdma.current"), Limit: readRdmaV1(d, "rdma.max")}
	}
	if d, ok := dirs["hugetlb"]; ok {
		for _, size := range hugePages(d, "usage_in_bytes") {
			prefix := "hugetlb." + size + "."
			m.Hugetlb = append(m.Hugetlb, &v1HugetlbStat{
				Usage:    readNumber(d, prefix+"usage_in_bytes"),
				Max:      readNumber(d, prefix+"max_usage_in_bytes"),
				Failcnt:  readNumber(d, prefix+"failcnt"),
				Pagesize: size,
			})
		}
	}
	return m
}

// clockTick is USER_HZ in nanoseconds, the unit of cpuacct.stat.
const clockTick = 1e9 / 100

func readCPUV1(acct, cpu string) *v1CPUStat {
	var ticks struct {
		User   uint64 `key:"user"`
		System uint64 `key:"system"`
	}
	readKeyed(acct, "cpuacct.stat", &ticks)
	s := &v1CPUStat{
		Usage:      &v1CPUUsage{Total: readNumber(acct, "cpuacct.usage"), Kernel: ticks.System * clockTick, User: ticks.User * clockTick},
		Throttling: &v1Throttle{},
	}
	lines(acct, "cpuacct.usage_percpu", func(words []string) {
		for _, w := range words {
			s.Usage.PerCPU = append(s.Usage.PerCPU, number(w))
		}
	})
	readKeyed(cpu, "cpu.stat", s.Throttling)
	return s
}

func readMemoryV1(dir string) *v1MemoryStat {
	s := &v1MemoryStat{}
	readKeyed(dir, "memory.stat", s)
	entry := func(prefix string) *v1MemoryEntry {
		prefix = "memory." + prefix
		return &v1MemoryEntry{
			Limit:   readNumber(dir, prefix+"limit_in_bytes"),
			Usage:   readNumber(dir, prefix+"usage_in_bytes"),
			Max:     readNumber(dir, prefix+"max_usage_in_bytes"),
			Failcnt: readNumber(dir, prefix+"failcnt"),
		}
	}
	s.Usage, s.Swap, s.Kernel, s.KernelTCP = entry(""), entry("memsw."), entry("kmem."), entry("kmem.tcp.")
	return s
}

// readBlkioV1 prefers the files of the throttling policy, which count for
// every scheduler, over those of CFQ and BFQ.
func readBlkioV1(dir string) *v1BlkIOStat {
	first := func(names ...string) (entries []*v1BlkIOEntry) {
		for _, n := range names {
			if entries = readBlkioEntries(dir, "blkio."+n); len(entries) > 0 {
				break
			}
		}
		return entries
	}
	return &v1BlkIOStat{
		IOServiceBytesRecursive: first("throttle.io_service_bytes_recursive", "io_service_bytes_recursive", "throttle.io_service_bytes"),
		IOServicedRecursive:     first("throttle.io_serviced_recursive", "io_serviced_recursive", "throttle.io_serviced"),
		IOQueuedRecursive:       first("io_queued_recursive", "bfq.io_queued_recursive"),
		IOServiceTimeRecursive:  first("io_service_time_recursive", "bfq.io_service_time_recursive"),
		IOWaitTimeRecursive:     first("io_wait_time_recursive", "bfq.io_wait_time_recursive"),
		IOMergedRecursive:       first("io_merged_recursive", "bfq.io_merged_recursive"),
		IOTimeRecursive:         first("time_recursive", "bfq.time_recursive"),
		SectorsRecursive:        first("sectors_recursive", "bfq.sectors_recursive"),
	}
}

// readBlkioEntries reads lines of "8:0 Read 4096" or "8:0 4096".
func readBlkioEntries(dir, name string) (entries []*v1BlkIOEntry) {
	lines(dir, name, func(words []string) {
		e := &v1BlkIOEntry{Value: number(words[len(words)-1])}
		var ok bool
		if e.Major, e.Minor, ok = device(words[0]); !ok || len(words) < 2 {
			return // the total of all devices
		}
		if len(words) > 2 {
			e.Op = words[1]
		}
		entries = append(entries, e)
	})
	return entries
}

func readRdmaV1(dir, name string) (entries []*v1RdmaEntry) {
	for _, e := range readRdma(dir, name) {
		entries = append(entries, (*v1RdmaEntry)(e))
	}
	return entries
}
