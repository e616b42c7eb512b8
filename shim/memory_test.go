// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
)

// resources counts what a shim holds.
type resources struct {
	fds, threads int
	private      int // KiB that no other process has mapped
}

// shim returns the pid of the shim.
func (b *box) shim() uint32 {
	b.t.Helper()
	c, err := b.task.Connect(b.ctx(), &task.ConnectRequest{ID: b.id})
	if err != nil {
		b.t.Fatal(err)
	}
	return c.ShimPid
}

func (b *box) resources(shim uint32) (r resources) {
	b.t.Helper()
	for _, dir := range []struct {
		name string
		n    *int
	}{{"fd", &r.fds}, {"task", &r.threads}} {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", shim, dir.name))
		if err != nil {
			b.t.Fatal(err)
		}
		*dir.n = len(list)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", shim))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var name string
		var n int
		fmt.Sscan(line, &name, &n)
		if name == "Private_Clean:" || name == "Private_Dirty:" {
			r.private += n
		}
	}
	return r
}

// execs is how many processes are run: SLIPWAY_EXECS.
func execs(t *testing.T) int {
	text := os.Getenv("SLIPWAY_EXECS")
	if text == "" {
		return 80
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SLIPWAY_EXECS=%s: %v", text, err)
	}
	return n
}

func TestExecsLeaveNothingInTheShim(t *testing.T) {
	count := execs(t)
	w := newWorld(t)
	b := w.box(t, "leak", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	shim := b.shim() // asked once: a call keeps the shim from being idle
	exec := func(i int) {
		id := fmt.Sprintf("e%d", i)
		in, out := b.fifo(id+"-in"), b.fifo(id+"-out")
		o := b.read(out)
		b.exec(id, stdio{in: in, out: out, terminal: i%2 == 0}, "true")
		b.run(id)
		b.wait(id)
		b.delete(id)
		o.all(t)
		os.Remove(in)
		os.Remove(out)
	}
	// upstream is what a shim of containerd 2.3.4 holds after one exec.
	const upstream, flat = 16000, 1024 // KiB
	idle := func(what string, limit int) (r resources) {
		until(t, what, func() bool {
			r = b.resources(shim)
			return r.private < limit
		})
		return r
	}
	exec(0)
	idle("the idle shim has a third of upstream's memory", upstream/3)
	for i := range 20 {
		exec(100 + i)
	}
	before := idle("the shim gives memory back after execs", upstream/3)
	for i := range count {
		exec(200 + i)
		if n := i + 1; n%max(count/10, 80) == 0 || n == count {
			after := idle("the shim has the same memory after many execs", before.private+flat)
			if after.fds > before.fds {
				t.Errorf("descriptors: %d, then %d", before.fds, after.fds)
			}
			t.Logf("%6d execs: private %d KiB, %d descriptors, %d threads", n, after.private, after.fds, after.threads)
		}
	}
	b.kill("", unix.SIGKILL)
	b.wait("")
}
