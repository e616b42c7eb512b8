// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"os"
	"slices"
	"strings"
	"testing"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
)

// The golden files are the names that upstream's daemon reports.
func TestSeriesAreNamedAsUpstreams(t *testing.T) {
	entry := []*stats1.BlkIOEntry{{Op: "Read", Major: 8, Value: 1}}
	for file, stats := range map[string]any{
		"cgroup1.txt": &stats1.Metrics{
			Pids: &stats1.PidsStat{Current: 3}, Hugetlb: []*stats1.HugetlbStat{{Pagesize: "2MB"}},
			CPU: &stats1.CPUStat{Usage: &stats1.CPUUsage{Total: 7, PerCPU: []uint64{7}}, Throttling: &stats1.Throttle{}},
			Memory: &stats1.MemoryStat{Usage: &stats1.MemoryEntry{Usage: 4096}, Swap: &stats1.MemoryEntry{}, Kernel: &stats1.MemoryEntry{},
				KernelTCP: &stats1.MemoryEntry{}},
			Blkio: &stats1.BlkIOStat{IoMergedRecursive: entry, IoQueuedRecursive: entry, IoServiceBytesRecursive: entry, IoServiceTimeRecursive: entry,
				IoServicedRecursive: entry, IoTimeRecursive: entry, SectorsRecursive: entry},
		},
		"cgroup2.txt": &stats2.Metrics{
			Pids: &stats2.PidsStat{}, CPU: &stats2.CPUStat{}, Memory: &stats2.MemoryStat{PSI: &stats2.PSIStats{}},
			MemoryEvents: &stats2.MemoryEvents{}, Io: &stats2.IOStat{Usage: []*stats2.IOEntry{{Major: 8}}},
		},
	} {
		var got []string
		for _, s := range seriesOf(stats) {
			got = append(got, "container_"+s.name)
		}
		slices.Sort(got)
		text, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Fields(string(text))
		for _, n := range want {
			if !slices.Contains(got, n) {
				t.Errorf("%s: %s is missing", file, n)
			}
		}
		for _, n := range got {
			// What upstream does not report is a later addition to the messages.
			if !slices.Contains(want, n) && !strings.Contains(n, "max_usage") {
				t.Errorf("%s: %s is not upstream's", file, n)
			}
		}
	}
}

func TestWhatIsNotCountedIsLeftOut(t *testing.T) {
	if s := seriesOf(&stats1.Metrics{}); len(s) != 0 {
		t.Errorf("series of nothing: %v", s)
	}
	if s := seriesOf("something else"); len(s) != 0 {
		t.Errorf("series of another type: %v", s)
	}
}
