// SPDX-License-Identifier: Apache-2.0

package cgstat

import (
	"strconv"
	"strings"
)

// The messages of io.containerd.cgroups.v2.Metrics. A tag `key` names the line
// of the control file that a field comes from.

type v2Metrics struct {
	Pids         *v2PidsStat      `pb:"1"`
	CPU          *v2CPUStat       `pb:"2"`
	Memory       *v2MemoryStat    `pb:"4"`
	Rdma         *v2RdmaStat      `pb:"5"`
	IO           *v2IOStat        `pb:"6"`
	Hugetlb      []*v2HugeTlbStat `pb:"7"`
	MemoryEvents *v2MemoryEvents  `pb:"8"`
	Network      []*v2NetworkStat `pb:"9"`
}

type v2PSIData struct {
	Avg10  float64 `pb:"1"`
	Avg60  float64 `pb:"2"`
	Avg300 float64 `pb:"3"`
	Total  uint64  `pb:"4"`
}

type v2PSIStats struct {
	Some *v2PSIData `pb:"1"`
	Full *v2PSIData `pb:"2"`
}

type v2PidsStat struct {
	Current uint64 `pb:"1"`
	Limit   uint64 `pb:"2"`
}

type v2CPUStat struct {
	UsageUsec     uint64      `pb:"1" key:"usage_usec"`
	UserUsec      uint64      `pb:"2" key:"user_usec"`
	SystemUsec    uint64      `pb:"3" key:"system_usec"`
	NrPeriods     uint64      `pb:"4" key:"nr_periods"`
	NrThrottled   uint64      `pb:"5" key:"nr_throttled"`
	ThrottledUsec uint64      `pb:"6" key:"throttled_usec"`
	Psi           *v2PSIStats `pb:"7"`
	NrBursts      uint64      `pb:"8" key:"nr_bursts"`
	BurstUsec     uint64      `pb:"9" key:"burst_usec"`
}

type v2MemoryStat struct {
	Anon                  uint64      `pb:"1" key:"anon"`
	File                  uint64      `pb:"2" key:"file"`
	KernelStack           uint64      `pb:"3" key:"kernel_stack"`
	Slab                  uint64      `pb:"4" key:"slab"`
	Sock                  uint64      `pb:"5" key:"sock"`
	Shmem                 uint64      `pb:"6" key:"shmem"`
	FileMapped            uint64      `pb:"7" key:"file_mapped"`
	FileDirty             uint64      `pb:"8" key:"file_dirty"`
	FileWriteback         uint64      `pb:"9" key:"file_writeback"`
	AnonThp               uint64      `pb:"10" key:"anon_thp"`
	InactiveAnon          uint64      `pb:"11" key:"inactive_anon"`
	ActiveAnon            uint64      `pb:"12" key:"active_anon"`
	InactiveFile          uint64      `pb:"13" key:"inactive_file"`
	ActiveFile            uint64      `pb:"14" key:"active_file"`
	Unevictable           uint64      `pb:"15" key:"unevictable"`
	SlabReclaimable       uint64      `pb:"16" key:"slab_reclaimable"`
	SlabUnreclaimable     uint64      `pb:"17" key:"slab_unreclaimable"`
	Pgfault               uint64      `pb:"18" key:"pgfault"`
	Pgmajfault            uint64      `pb:"19" key:"pgmajfault"`
	WorkingsetRefault     uint64      `pb:"20" key:"workingset_refault"`
	WorkingsetActivate    uint64      `pb:"21" key:"workingset_activate"`
	WorkingsetNodereclaim uint64      `pb:"22" key:"workingset_nodereclaim"`
	Pgrefill              uint64      `pb:"23" key:"pgrefill"`
	Pgscan                uint64      `pb:"24" key:"pgscan"`
	Pgsteal               uint64      `pb:"25" key:"pgsteal"`
	Pgactivate            uint64      `pb:"26" key:"pgactivate"`
	Pgdeactivate          uint64      `pb:"27" key:"pgdeactivate"`
	Pglazyfree            uint64      `pb:"28" key:"pglazyfree"`
	Pglazyfreed           uint64      `pb:"29" key:"pglazyfreed"`
	ThpFaultAlloc         uint64      `pb:"30" key:"thp_fault_alloc"`
	ThpCollapseAlloc      uint64      `pb:"31" key:"thp_collapse_alloc"`
	Usage                 uint64      `pb:"32"`
	UsageLimit            uint64      `pb:"33"`
	SwapUsage             uint64      `pb:"34"`
	SwapLimit             uint64      `pb:"35"`
	MaxUsage              uint64      `pb:"36"`
	SwapMaxUsage          uint64      `pb:"37"`
	Psi                   *v2PSIStats `pb:"38"`
}

type v2MemoryEvents struct {
	Low          uint64 `pb:"1" key:"low"`
	High         uint64 `pb:"2" key:"high"`
	Max          uint64 `pb:"3" key:"max"`
	OOM          uint64 `pb:"4" key:"oom"`
	OOMKill      uint64 `pb:"5" key:"oom_kill"`
	OOMGroupKill uint64 `pb:"6" key:"oom_group_kill"`
}

type v2RdmaStat struct {
	Current []*v2RdmaEntry `pb:"1"`
	Limit   []*v2RdmaEntry `pb:"2"`
}

type v2RdmaEntry struct {
	Device     string `pb:"1"`
	HcaHandles uint32 `pb:"2"`
	HcaObjects uint32 `pb:"3"`
}

type v2IOStat struct {
	Usage []*v2IOEntry `pb:"1"`
	Psi   *v2PSIStats  `pb:"2"`
}

type v2IOEntry struct {
	Major  uint64 `pb:"1"`
	Minor  uint64 `pb:"2"`
	Rbytes uint64 `pb:"3" key:"rbytes"`
	Wbytes uint64 `pb:"4" key:"wbytes"`
	Rios   uint64 `pb:"5" key:"rios"`
	Wios   uint64 `pb:"6" key:"wios"`
}

type v2HugeTlbStat struct {
	Current  uint64 `pb:"1"`
	Max      uint64 `pb:"2"`
	Pagesize string `pb:"3"`
	Failcnt  uint64 `pb:"4"`
}

type v2NetworkStat struct {
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

// metricsV2 reads the metrics of a container in a cgroup of version 2.
func metricsV2(dir string) *v2Metrics {
	m := &v2Metrics{
		Pids:         &v2PidsStat{Current: readNumber(dir, "pids.current"), Limit: readNumber(dir, "pids.max")},
		CPU:          &v2CPUStat{Psi: readPressure(dir, "cpu.pressure")},
		Memory:       readMemoryV2(dir),
		MemoryEvents: &v2MemoryEvents{},
		Rdma:         &v2RdmaStat{Current: readRdma(dir, "rdma.current"), Limit: readRdma(dir, "rdma.max")},
		IO:           readIOV2(dir),
	}
	readKeyed(dir, "cpu.stat", m.CPU)
	readKeyed(dir, "memory.events", m.MemoryEvents)
	for _, size := range hugePages(dir, "current") {
		var events struct {
			Max uint64 `key:"max"`
		}
		readKeyed(dir, "hugetlb."+size+".events", &events)
		m.Hugetlb = append(m.Hugetlb, &v2HugeTlbStat{
			Current:  readNumber(dir, "hugetlb."+size+".current"),
			Max:      readNumber(dir, "hugetlb."+size+".max"),
			Pagesize: size,
			Failcnt:  events.Max,
		})
	}
	return m
}

func readMemoryV2(dir string) *v2MemoryStat {
	s := &v2MemoryStat{
		Usage:        readNumber(dir, "memory.current"),
		UsageLimit:   readNumber(dir, "memory.max"),
		MaxUsage:     readNumber(dir, "memory.peak"),
		SwapUsage:    readNumber(dir, "memory.swap.current"),
		SwapLimit:    readNumber(dir, "memory.swap.max"),
		SwapMaxUsage: readNumber(dir, "memory.swap.peak"),
		Psi:          readPressure(dir, "memory.pressure"),
	}
	readKeyed(dir, "memory.stat", s)
	return s
}

// readIOV2 reads lines of "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
func readIOV2(dir string) *v2IOStat {
	s := &v2IOStat{Psi: readPressure(dir, "io.pressure")}
	lines(dir, "io.stat", func(words []string) {
		e := &v2IOEntry{}
		var ok bool
		if e.Major, e.Minor, ok = device(words[0]); !ok {
			return
		}
		setKeyed(strings.NewReader(strings.ReplaceAll(strings.Join(words[1:], "\n"), "=", " ")), e)
		s.Usage = append(s.Usage, e)
	})
	return s
}

// readPressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the
// same for full, nil if the kernel has no such file.
func readPressure(dir, name string) (s *v2PSIStats) {
	lines(dir, name, func(words []string) {
		if s == nil {
			s = &v2PSIStats{}
		}
		d := &v2PSIData{}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			avg, _ := strconv.ParseFloat(v, 64)
			switch k {
			case "avg10":
				d.Avg10 = avg
			case "avg60":
				d.Avg60 = avg
			case "avg300":
				d.Avg300 = avg
			case "total":
				d.Total = number(v)
			}
		}
		if words[0] == "some" {
			s.Some = d
		} else {
			s.Full = d
		}
	})
	return s
}

// readRdma reads lines of "mlx4_0 hca_handle=2 hca_object=2000".
func readRdma(dir, name string) (entries []*v2RdmaEntry) {
	lines(dir, name, func(words []string) {
		e := &v2RdmaEntry{Device: words[0]}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			n := uint32(min(number(v), 1<<32-1))
			if k == "hca_handle" {
				e.HcaHandles = n
			} else {
				e.HcaObjects = n
			}
		}
		entries = append(entries, e)
	})
	return entries
}
