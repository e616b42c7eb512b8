// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"slipway/internal/ident"
	"slipway/meta"
	"slipway/task"
)

// Cgroups is a prometheus.Collector of what the cgroups of all tasks count. It
// asks the shims when it is asked, all at once.
type Cgroups struct {
	DB    *meta.DB
	Tasks *task.Manager
	// Timeout bounds the answer of one shim.
	Timeout time.Duration
}

// scrapers is how many shims are asked at once.
const scrapers = 16

// Describe implements prometheus.Collector; what there is depends on the host.
func (c *Cgroups) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *Cgroups) Collect(out chan<- prometheus.Metric) {
	ctx := context.Background()
	namespaces, err := c.DB.Namespaces().List(ctx)
	if err != nil {
		slog.Error("metrics of tasks", "error", err)
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, scrapers)
	for _, ns := range namespaces {
		containers, err := c.DB.Containers(ident.Scope{Namespace: ns}).List(ctx)
		if err != nil {
			slog.Error("metrics of tasks", "namespace", ns, "error", err)
			continue
		}
		for _, cont := range containers {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				c.collect(ctx, ns, cont, out)
			})
		}
	}
	wg.Wait()
}

// collect sends what one task counts. A container without a task counts
// nothing, and so does one whose shim does not answer.
func (c *Cgroups) collect(ctx context.Context, ns ident.Namespace, cont meta.Container, out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	encoded, err := c.Tasks.Stats(ctx, ns, cont.ID)
	if err != nil || encoded == nil {
		slog.Debug("metrics of a task", "namespace", ns, "id", cont.ID, "error", err)
		return
	}
	stats, err := typeurl.UnmarshalAny(encoded)
	if err != nil {
		slog.Warn("metrics of a task", "namespace", ns, "id", cont.ID, "error", err)
		return
	}
	for _, s := range seriesOf(stats) {
		keys, values := []string{"container_id", "namespace", "runtime"}, []string{cont.ID, string(ns), cont.Runtime.Name}
		for _, l := range s.labels {
			keys, values = append(keys, l[0]), append(values, l[1])
		}
		desc := prometheus.NewDesc("container_"+s.name, "Counted by the cgroup of a task.", keys, nil)
		m, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, s.value, values...)
		if err != nil { // a value that is not UTF-8
			slog.Warn("metrics of a task", "namespace", ns, "id", cont.ID, "error", err)
			continue
		}
		out <- m
	}
}

// A series is one number. Its name ends in its unit.
type series struct {
	name   string
	labels [][2]string
	value  float64
}

// seriesOf gives the numbers of either cgroup version.
func seriesOf(stats any) []series {
	switch m := stats.(type) {
	case *stats1.Metrics:
		return version1(m)
	case *stats2.Metrics:
		return version2(m)
	}
	return nil
}

// names1 are the fields of version 1 whose series are called otherwise.
var names1 = strings.NewReplacer("pg_pg_in", "pgpgin", "pg_pg_out", "pgpgout", "pg_fault", "pgfault", "pg_maj_fault", "pgmajfault",
	"hierarchical_swap_limit", "hierarchical_memsw_limit", "kernel_tcp", "kerneltcp")

func version1(m *stats1.Metrics) (all []series) {
	all = append(all, numbers(m.GetPids(), "pids_", "")...)
	all = append(all, numbers(m.GetCPU().GetUsage(), "cpu_", "_nanoseconds")...)
	for i, v := range m.GetCPU().GetUsage().GetPerCPU() {
		all = append(all, series{"per_cpu_nanoseconds", [][2]string{{"cpu", strconv.Itoa(i)}}, float64(v)})
	}
	if t := m.GetCPU().GetThrottling(); t != nil {
		all = append(all, series{"cpu_throttle_periods_total", nil, float64(t.Periods)},
			series{"cpu_throttled_periods_total", nil, float64(t.ThrottledPeriods)},
			series{"cpu_throttled_time_nanoseconds", nil, float64(t.ThrottledTime)})
	}
	for _, s := range numbers(m.GetMemory(), "memory_", "_bytes") {
		s.name = names1.Replace(s.name)
		if strings.HasSuffix(s.name, "_failcnt_bytes") {
			s.name = strings.TrimSuffix(s.name, "_bytes") + "_total"
		}
		all = append(all, s)
	}
	for _, h := range m.GetHugetlb() {
		page := [][2]string{{"page", h.Pagesize}}
		all = append(all, series{"hugetlb_usage_bytes", page, float64(h.Usage)},
			series{"hugetlb_failcnt_total", page, float64(h.Failcnt)}, series{"hugetlb_max_bytes", page, float64(h.Max)})
	}
	return append(all, blockIO1(m.GetBlkio())...)
}

func blockIO1(b *stats1.BlkIOStat) (all []series) {
	for name, entries := range map[string][]*stats1.BlkIOEntry{
		"io_merged_recursive_total": b.GetIoMergedRecursive(), "io_queued_recursive_total": b.GetIoQueuedRecursive(),
		"io_service_bytes_recursive_bytes": b.GetIoServiceBytesRecursive(), "io_service_time_recursive_total": b.GetIoServiceTimeRecursive(),
		"io_serviced_recursive_total": b.GetIoServicedRecursive(), "io_time_recursive_total": b.GetIoTimeRecursive(),
		"sectors_recursive_total": b.GetSectorsRecursive(),
	} {
		for _, e := range entries {
			labels := append(deviceLabels(e.Major, e.Minor), [2]string{"op", e.Op}, [2]string{"device", e.Device})
			all = append(all, series{"blkio_" + name, labels, float64(e.Value)})
		}
	}
	return all
}

func version2(m *stats2.Metrics) (all []series) {
	all = append(all, numbers(m.GetPids(), "pids_", "")...)
	if c := m.GetCPU(); c != nil {
		all = append(all, series{"cpu_usage_usec_microseconds", nil, float64(c.UsageUsec)},
			series{"cpu_user_usec_microseconds", nil, float64(c.UserUsec)}, series{"cpu_system_usec_microseconds", nil, float64(c.SystemUsec)},
			series{"cpu_nr_periods_total", nil, float64(c.NrPeriods)}, series{"cpu_nr_throttled_total", nil, float64(c.NrThrottled)},
			series{"cpu_throttled_usec_microseconds", nil, float64(c.ThrottledUsec)})
	}
	all = append(all, numbers(m.GetMemory(), "memory_", "_bytes")...)
	if e := m.GetMemoryEvents(); e != nil {
		all = append(all, series{"memory_oom_total", nil, float64(e.Oom)})
	}
	for _, e := range m.GetIo().GetUsage() {
		labels := deviceLabels(e.Major, e.Minor)
		all = append(all, series{"io_rbytes_bytes", labels, float64(e.Rbytes)}, series{"io_wbytes_bytes", labels, float64(e.Wbytes)},
			series{"io_rios_total", labels, float64(e.Rios)}, series{"io_wios_total", labels, float64(e.Wios)})
	}
	return all
}

func deviceLabels(major, minor uint64) [][2]string {
	return [][2]string{{"major", strconv.FormatUint(major, 10)}, {"minor", strconv.FormatUint(minor, 10)}}
}

// numbers makes a series of each counter in m and in the messages in it,
// which are there: most counters are called as their fields are. Pressure is
// left out, as upstream does.
func numbers(m proto.Message, prefix, unit string) (all []series) {
	r := m.ProtoReflect()
	if !r.IsValid() {
		return nil
	}
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := prefix + string(f.Name())
		switch {
		case f.IsList() || f.Name() == "psi":
		case f.Kind() == protoreflect.MessageKind:
			all = append(all, numbers(r.Get(f).Message().Interface(), name+"_", unit)...)
		case f.Kind() == protoreflect.Uint64Kind:
			all = append(all, series{name + unit, nil, float64(r.Get(f).Uint())})
		}
	}
	return all
}
