// SPDX-License-Identifier: Apache-2.0

// Package upgrade moves a host from upstream's containerd to ours and back,
// with containers running.
package upgrade

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipway/task/shimtest"
	"slipway/test/host"
)

func TestMain(m *testing.M) {
	shimtest.Main()
	os.Exit(host.Main(m))
}

func TestInPlaceBothWays(t *testing.T) {
	host.NeedBuilt(t)
	host.Need(t, filepath.Join(host.Peers(), "containerd"))
	for name, order := range map[string][2]string{
		"from upstream to ours and back": {host.Peers(), host.Bin()},
		"from ours to upstream and back": {host.Bin(), host.Peers()},
	} {
		t.Run(name, func(t *testing.T) { move(t, order[0], order[1]) })
	}
}

// move fills the root of a first system, opens it with a second, uses it, and
// opens it with the first again.
func move(t *testing.T, from, to string) {
	r := host.StartRegistry(t)
	ref := r.Push(t, host.Busybox(t), "library/busybox:latest")
	dir := host.TempDir(t)
	sandbox := pod{shimtest.Install(t)}
	first := host.Start(t, host.Options{Bin: from, Dir: dir})
	fill(t, first, ref)
	sandbox.run(t, first)
	before := inventory(t, first)
	first.Stop(t)

	second := host.Start(t, host.Options{Bin: to, Dir: dir})
	if after := inventory(t, second); after != before {
		t.Errorf("the first had\n%s\nthe second has\n%s", before, after)
	}
	use(t, second, ref, "second")
	sandbox.use(t, second, "second")
	before = inventory(t, second)
	second.Stop(t)

	first.Run(t)
	if after := inventory(t, first); after != before {
		t.Errorf("the second had\n%s\nthe first has\n%s", before, after)
	}
	sandbox.use(t, first, "first")
	sandbox.end(t, first)
	use(t, first, ref, "first")
	for _, id := range []string{"runs", "ended", "waits"} {
		first.Try(t, "t", "rm", "-f", id)
		first.Ctr(t, "c", "rm", id)
	}
	first.Ctr(t, "leases", "rm", "keeps")
}

// fill makes one of everything.
func fill(t *testing.T, d *host.Daemon, ref string) {
	t.Helper()
	d.Ctr(t, "i", "pull", "--plain-http", ref)
	d.Ctr(t, "i", "tag", ref, "other:1")
	d.Ctr(t, "leases", "create", "--id", "keeps")
	d.Ctr(t, "ns", "create", "second", "of=test")
	d.Ctr(t, "i", "label", ref, "of=test")
	d.Ctr(t, "run", "-d", "--label", "of=test", ref, "runs", "sh", "-c", "echo kept >/kept; while [ ! -e /go ]; do sleep 0.05; done; exit 42")
	// Nobody removes the FIFOs of a task that a daemon removes at its start.
	d.Ctr(t, "run", "-d", "--fifo-dir", filepath.Join(d.Dir, "fifo"), ref, "ended", "true")
	d.Ctr(t, "c", "create", ref, "waits", "echo", "well")
	d.Ctr(t, "snapshots", "prepare", "own", chain(t, d))
	host.Until(t, "one has ended", func() bool { return strings.Contains(d.Ctr(t, "t", "ls"), "STOPPED") })
}

// chain is the key of a committed snapshot.
func chain(t *testing.T, d *host.Daemon) string {
	t.Helper()
	for _, line := range strings.Split(d.Ctr(t, "snapshots", "ls"), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[len(f)-1] == "Committed" {
			return f[0]
		}
	}
	t.Fatal("no committed snapshot")
	return ""
}

// inventory is everything that a daemon lists and that must not change by
// itself.
func inventory(t *testing.T, d *host.Daemon) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"ns", "ls"}, {"i", "ls", "-q"}, {"c", "ls"}, {"t", "ls"}, {"snapshots", "ls"}, {"leases", "ls", "-q"}, {"content", "ls", "-q"},
	} {
		b.WriteString("$ ctr " + strings.Join(args, " ") + "\n")
		// Upstream lists tasks in any order.
		for _, line := range slices.Sorted(strings.Lines(d.Ctr(t, args...))) {
			// A daemon that starts removes tasks that have ended.
			if !strings.Contains(line, "STOPPED") {
				b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
			}
		}
	}
	return b.String() + sandboxes(t, d)
}

// use does what needs all of what is stored.
func use(t *testing.T, d *host.Daemon, ref, who string) {
	t.Helper()
	// A collection must free nothing that is in use.
	d.Ctr(t, "content", "prune", "references")
	if out := d.Ctr(t, "t", "exec", "--exec-id", who, "runs", "cat", "/kept"); out != "kept\n" {
		t.Errorf("exec printed %q", out)
	}
	if out := d.Ctr(t, "run", "--rm", "other:1", who, "echo", who); out != who+"\n" {
		t.Errorf("run printed %q", out)
	}
	if who != "first" {
		return
	}
	// It was started by the first, moved to the second and back: its exit is
	// still known.
	d.Ctr(t, "t", "exec", "--exec-id", "go", "runs", "touch", "/go")
	host.Until(t, "it has ended", func() bool { return !strings.Contains(d.Ctr(t, "t", "ls"), "RUNNING") })
	if r := d.Try(t, "t", "rm", "runs"); !strings.Contains(r.Stderr, "42") {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
}
