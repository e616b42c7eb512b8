// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A cost is what one repetition took. CPU is that of every process of the
// system that is measured (client, daemon, shim, runtime), not of the
// container's payload; it is 0 where it cannot be known.
type cost struct {
	Wall, CPU time.Duration
}

// A row is one line of the table. Prepare, which may be nil, runs before each
// repetition and is not measured.
type row struct {
	Name     string
	Times    int
	Target   float64
	Ours     side
	Peer     side
	PeerName string
}

type side struct {
	Group   *group // where the processes run, nil for that of this process's children
	Prepare func(t *testing.T, i int)
	Do      func(t *testing.T, i int)
}

// measure runs both sides in turn, so that whatever disturbs the machine
// disturbs both, and prints the ratios of the medians, with the smallest in
// brackets.
func (r row) measure(t *testing.T) {
	var ours, peer []cost
	for i := range r.Times {
		// The first of a pair changes, so that neither is always the one
		// that finds warm caches.
		if i%2 == 0 {
			ours = append(ours, r.Ours.run(t, i))
			peer = append(peer, r.Peer.run(t, i))
			continue
		}
		peer = append(peer, r.Peer.run(t, i))
		ours = append(ours, r.Ours.run(t, i))
	}
	a, b := median(ours), median(peer)
	least, leastPeer := smallest(ours), smallest(peer)
	fmt.Printf("%-44s %-16s %5.2f (%5.2f) %9s %9s   %5s %9s %9s   %s\n", r.Name, r.PeerName,
		ratio(a.Wall, b.Wall), ratio(least.Wall, leastPeer.Wall), round(a.Wall), round(b.Wall),
		percent(a.CPU, b.CPU), round(a.CPU), round(b.CPU), target(r.Target))
}

const heading = "row                                          peer              wall (least)      ours      peer     cpu      ours      peer   target\n"

func (s side) run(t *testing.T, i int) cost {
	if s.Prepare != nil {
		s.Prepare(t, i)
	}
	before, begin := s.Group.cpu(), time.Now()
	s.Do(t, i)
	return cost{time.Since(begin), s.Group.cpu() - before}
}

func median(costs []cost) cost {
	walls, cpus := columns(costs)
	return cost{walls[len(walls)/2], cpus[len(cpus)/2]}
}

func smallest(costs []cost) cost {
	walls, cpus := columns(costs)
	return cost{walls[0], cpus[0]}
}

// columns returns the sorted figures of costs.
func columns(costs []cost) (walls, cpus []time.Duration) {
	for _, c := range costs {
		walls, cpus = append(walls, c.Wall), append(cpus, c.CPU)
	}
	slices.Sort(walls)
	slices.Sort(cpus)
	return walls, cpus
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func percent(a, b time.Duration) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", ratio(a, b))
}

func target(x float64) string {
	if x == 0 {
		return ""
	}
	return fmt.Sprintf("<= %.2f", x)
}

func round(d time.Duration) string {
	if d > time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// A group is a cgroup whose processes' time is counted: in the cpuacct
// hierarchy of version 1, or in the unified one.
type group struct{ dir string }

// newGroup makes a cgroup that goes when the test ends.
func newGroup(t *testing.T, name string) *group {
	t.Helper()
	base := "/sys/fs/cgroup/cpuacct"
	if _, err := os.Stat(base); err != nil {
		base = "/sys/fs/cgroup"
	}
	g := &group{filepath.Join(base, fmt.Sprintf("slipway-bench-%s-%d", name, os.Getpid()))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 100 {
			if os.Remove(g.dir) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("%s cannot be removed", g.dir)
	})
	return g
}

// cpu is the time that the group's processes have used, in all.
func (g *group) cpu() time.Duration {
	if g == nil {
		return 0
	}
	if text, err := os.ReadFile(filepath.Join(g.dir, "cpuacct.usage")); err == nil {
		n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return time.Duration(n)
	}
	text, _ := os.ReadFile(filepath.Join(g.dir, "cpu.stat"))
	for _, line := range strings.Split(string(text), "\n") {
		if n, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, _ := strconv.ParseInt(n, 10, 64)
			return time.Duration(us) * time.Microsecond
		}
	}
	return 0
}

// wrap makes a command line that runs in the group.
func (g *group) wrap(args []string) []string {
	return append([]string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.dir, "cgroup.procs")}, args...)
}
