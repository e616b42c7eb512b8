// SPDX-License-Identifier: Apache-2.0

package cgstat

import (
	"os"
	"path/filepath"
	"testing"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"

	"slipway/internal/pb/pbtest"
)

func TestMessagesAreThePublishedOnes(t *testing.T) {
	pbtest.Same(t, v1Metrics{}, &cgroup1.Metrics{})
	pbtest.Same(t, v2Metrics{}, &cgroup2.Metrics{})
}

// files writes control files and returns their directory.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMetricsOfVersion2(t *testing.T) {
	m := metricsV2(files(t, map[string]string{
		"pids.current":        "3\n",
		"pids.max":            "max\n",
		"cpu.stat":            "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_bursts 2\n",
		"cpu.pressure":        "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		"memory.current":      "4096\n",
		"memory.max":          "max\n",
		"memory.stat":         "anon 7\nanon_thp 8\npgfault 9\nworkingset_nodereclaim 5\n",
		"memory.events":       "low 0\noom 1\noom_kill 2\noom_group_kill 3\n",
		"io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
		"rdma.current":        "mlx4_0 hca_handle=2 hca_object=2000\n",
		"hugetlb.2MB.current": "5\n",
		"hugetlb.2MB.max":     "max\n",
		"hugetlb.2MB.events":  "max 6\n",
	}))
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"pids", *m.Pids, v2PidsStat{Current: 3, Limit: 1<<64 - 1}},
		{"usage", m.CPU.UsageUsec, uint64(10)},
		{"bursts", m.CPU.NrBursts, uint64(2)},
		{"pressure", *m.CPU.Psi.Some, v2PSIData{Avg10: 1.5, Total: 9}},
		{"memory", m.Memory.Usage, uint64(4096)},
		{"huge pages of anonymous memory", m.Memory.AnonThp, uint64(8)},
		{"nodereclaim", m.Memory.WorkingsetNodereclaim, uint64(5)},
		{"memory events", *m.MemoryEvents, v2MemoryEvents{OOM: 1, OOMKill: 2, OOMGroupKill: 3}},
		{"io", *m.IO.Usage[0], v2IOEntry{Major: 8, Rbytes: 1, Wbytes: 2, Rios: 3, Wios: 4}},
		{"rdma", *m.Rdma.Current[0], v2RdmaEntry{Device: "mlx4_0", HcaHandles: 2, HcaObjects: 2000}},
		{"huge pages", *m.Hugetlb[0], v2HugeTlbStat{Current: 5, Max: 1<<64 - 1, Pagesize: "2MB", Failcnt: 6}},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, tt.got, tt.want)
		}
	}
}

func TestMetricsOfVersion1(t *testing.T) {
	dir := files(t, map[string]string{
		"pids.current": "3\n", "pids.max": "max\n",
		"cpuacct.usage": "50\n", "cpuacct.stat": "user 2\nsystem 1\n", "cpuacct.usage_percpu": "20 30 \n",
		"cpu.stat":              "nr_periods 4\nnr_throttled 5\nthrottled_time 6\n",
		"memory.usage_in_bytes": "4096\n", "memory.limit_in_bytes": "9223372036854771712\n",
		"memory.stat":        "rss 7\ntotal_rss 8\npgpgin 9\nhierarchical_memsw_limit 10\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"blkio.throttle.io_service_bytes_recursive": "8:0 Read 100\n8:0 Total 100\nTotal 100\n",
	})
	m := metricsV1(map[string]string{"pids": dir, "cpuacct": dir, "cpu": dir, "memory": dir, "blkio": dir})
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"pids", *m.Pids, v1PidsStat{Current: 3}},
		{"cpu total", m.CPU.Usage.Total, uint64(50)},
		{"cpu user", m.CPU.Usage.User, uint64(20_000_000)},
		{"cpus", len(m.CPU.Usage.PerCPU), 2},
		{"throttling", *m.CPU.Throttling, v1Throttle{Periods: 4, ThrottledPeriods: 5, ThrottledTime: 6}},
		{"memory", m.Memory.Usage.Usage, uint64(4096)},
		{"rss", m.Memory.Rss, uint64(7)},
		{"total rss", m.Memory.TotalRss, uint64(8)},
		{"pages in", m.Memory.PgPgIn, uint64(9)},
		{"swap limit", m.Memory.HierarchicalSwapLimit, uint64(10)},
		{"oom", *m.MemoryOOMControl, v1MemoryOOMControl{OOMKill: 2}},
		{"blkio entries", len(m.Blkio.IOServiceBytesRecursive), 2},
		{"blkio", *m.Blkio.IOServiceBytesRecursive[0], v1BlkIOEntry{Op: "Read", Major: 8, Value: 100}},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, tt.got, tt.want)
		}
	}
}

func TestParse(t *testing.T) {
	const v1 = "5:memory:/a\n4:cpu,cpuacct:/b\n1:name=systemd:/c\n0::/d\n"
	g, err := parse([]byte(v1), false)
	if err != nil || g.v1["memory"] != "/sys/fs/cgroup/memory/a" || g.v1["cpuacct"] != "/sys/fs/cgroup/cpuacct/b" || len(g.v1) != 3 {
		t.Errorf("version 1: %+v, %v", g, err)
	}
	if g, err := parse([]byte(v1), true); err != nil || g.unified != "/sys/fs/cgroup/d" {
		t.Errorf("version 2: %+v, %v", g, err)
	}
	if _, err := parse(nil, false); err == nil {
		t.Error("no cgroup at all was accepted")
	}
}
