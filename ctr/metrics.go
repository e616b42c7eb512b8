// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	cgroups1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroups2 "github.com/containerd/cgroups/v3/cgroup2/stats"
)

func taskMetrics(f flagSet) action {
	format := f.String("format", "table", "Output, table or json")
	return func(s *session, args []string) error {
		_, t, err := s.task(arg(args, 0))
		if err != nil {
			return err
		}
		m, err := t.Metrics(s.ctx)
		if err != nil {
			return err
		}
		data, err := decode(m.Data)
		if err != nil {
			return errors.New("cannot convert metric data to cgroups.Metrics or windows.Statistics")
		}
		switch *format {
		case "json":
			out, err := json.MarshalIndent(data, "", "  ")
			if err != nil {
				return err
			}
			fmt.Fprintln(s.out, string(out))
			return nil
		case "table":
			w := s.table(1, 4, "ID\tTIMESTAMP\t")
			fmt.Fprintf(w, "%s\t%s\t\n\n", m.ID, m.Timestamp)
			fmt.Fprintf(w, "METRIC\tVALUE\t\n")
			switch m := data.(type) {
			case *cgroups1.Metrics:
				printCgroup1(w, m)
			case *cgroups2.Metrics:
				printCgroup2(w, m)
			}
			return w.Flush()
		}
		return errors.New("format must be table or json")
	}
}

func printCgroup1(w io.Writer, m *cgroups1.Metrics) {
	if m.Memory != nil {
		fmt.Fprintf(w, "memory.usage_in_bytes\t%d\t\n", m.Memory.Usage.GetUsage())
		fmt.Fprintf(w, "memory.limit_in_bytes\t%d\t\n", m.Memory.Usage.GetLimit())
		fmt.Fprintf(w, "memory.stat.cache\t%d\t\n", m.Memory.TotalCache)
	}
	if m.CPU != nil {
		fmt.Fprintf(w, "cpuacct.usage\t%d\t\n", m.CPU.Usage.GetTotal())
		fmt.Fprintf(w, "cpuacct.usage_percpu\t%v\t\n", m.CPU.Usage.GetPerCPU())
	}
	if m.Pids != nil {
		fmt.Fprintf(w, "pids.current\t%v\t\n", m.Pids.Current)
		fmt.Fprintf(w, "pids.limit\t%v\t\n", m.Pids.Limit)
	}
}

func printCgroup2(w io.Writer, m *cgroups2.Metrics) {
	type row struct {
		name  string
		value uint64
	}
	var rows []row
	if m.Pids != nil {
		rows = append(rows, row{"pids.current", m.Pids.Current}, row{"pids.limit", m.Pids.Limit})
	}
	if c := m.CPU; c != nil {
		rows = append(rows, row{"cpu.usage_usec", c.UsageUsec}, row{"cpu.user_usec", c.UserUsec}, row{"cpu.system_usec", c.SystemUsec},
			row{"cpu.nr_periods", c.NrPeriods}, row{"cpu.nr_throttled", c.NrThrottled}, row{"cpu.throttled_usec", c.ThrottledUsec})
	}
	if c := m.Memory; c != nil {
		rows = append(rows, row{"memory.usage", c.Usage}, row{"memory.usage_limit", c.UsageLimit},
			row{"memory.swap_usage", c.SwapUsage}, row{"memory.swap_limit", c.SwapLimit})
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t\n", r.name, r.value)
	}
}
