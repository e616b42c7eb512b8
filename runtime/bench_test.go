// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRun is a container's whole life, for docs/perf.md.
func BenchmarkRun(b *testing.B) {
	box := newBox(b, "")
	box.spec.Process.Args = []string{"true"}
	box.root = memoryRoot(b)
	config := box.config()
	ctx := context.Background()
	defer reportCPU(b)()
	for b.Loop() {
		c, err := Create(ctx, config)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Start(ctx); err != nil {
			b.Fatal(err)
		}
		wait(b, c.Init())
		if err := c.Delete(ctx, false); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExec is a process beside a running container's.
func BenchmarkExec(b *testing.B) {
	box := newBox(b, "sleep 1000")
	c, _, err := box.create(nil)
	if err != nil {
		b.Fatal(err)
	}
	defer reportCPU(b)()
	for b.Loop() {
		p, err := c.Exec(context.Background(), ProcessConfig{Spec: newSpec("true").Process})
		if err != nil {
			b.Fatal(err)
		}
		wait(b, p)
	}
}

// reportCPU reports the CPU time of this process and of its children.
func reportCPU(b *testing.B) (report func()) {
	used := func() (sum time.Duration) {
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var u unix.Rusage
			if err := unix.Getrusage(who, &u); err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		return sum
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/1e6/float64(b.N), "cpu-ms/op") }
}

// memoryRoot is a directory for state where /run is: in memory.
func memoryRoot(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "bench")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
