// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipway/test/host"
)

// startCtr starts a command of ctr and does not wait for it.
func startCtr(t *testing.T, d *host.Daemon, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(host.Bin(), "ctr"), append([]string{"-a", d.Address}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestContainersOutliveTheDaemon(t *testing.T) {
	d, ref := start(t)
	log := filepath.Join(d.Dir, "out.log")
	d.Ctr(t, "run", "-d", "--log-uri", "file://"+log, ref, "live", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
	d.Ctr(t, "run", "-d", ref, "ends", "sleep", "0.3")
	d.Ctr(t, "run", "-d", ref, "code", "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 42")
	for _, end := range []func(testing.TB){d.Kill, d.Stop} {
		end(t)
		d.Run(t)
		if s := status(t, d, "live"); s != "RUNNING" {
			t.Fatalf("the container is %q", s)
		}
		if out := d.Ctr(t, "t", "exec", "--exec-id", "e", "live", "echo", "in"); out != "in\n" {
			t.Errorf("exec printed %q", out)
		}
		logged := size(t, log)
		host.Until(t, "the log goes on", func() bool { return size(t, log) > logged })
	}
	host.Until(t, "the one that ended is seen", func() bool { return status(t, d, "ends") == "STOPPED" })
	events := watch(t, d)
	d.Ctr(t, "t", "exec", "--exec-id", "go", "code", "touch", "/go")
	events.until("/tasks/exit", `"container_id":"code"`, `"exit_status":42`)
	if r := d.Try(t, "t", "rm", "code"); !strings.Contains(r.Stderr, "42") {
		t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	d.Ctr(t, "c", "rm", "code")
	d.Ctr(t, "t", "rm", "ends")
	d.Ctr(t, "c", "rm", "ends")
	remove(t, d, "live")
	empty(t, d)
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// A watcher reads `ctr events`.
type watcher struct {
	t     *testing.T
	lines chan string
}

func watch(t *testing.T, d *host.Daemon) *watcher {
	t.Helper()
	cmd := exec.Command(filepath.Join(host.Bin(), "ctr"), "-a", d.Address, "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	w := &watcher{t: t, lines: make(chan string, 4096)}
	go func() {
		defer close(w.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			w.lines <- s.Text()
		}
	}()
	// The subscription exists when an event of ours comes through.
	host.Until(t, "events come", func() bool {
		d.Ctr(t, "ns", "label", "default", host.Unique("probe")+"=1")
		return len(w.lines) > 0
	})
	return w
}

// until reads events until one has all the words.
func (w *watcher) until(words ...string) {
	w.t.Helper()
	var seen []string
	found := false
	host.Until(w.t, fmt.Sprintf("event %v", words), func() bool {
		for !found {
			select {
			case line := <-w.lines:
				seen = append(seen, line)
				found = hasAll(line, words)
			default:
				return false
			}
		}
		return true
	})
}

func hasAll(line string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}

// A killing is one of the daemon or of a shim, at a fault point that the command
// passes.
type killing struct {
	point   string
	command []string
}

// TestKilledAtEveryStep kills the daemon or the shim at each durable step. What
// was acknowledged stays, what was not is gone or can be done again.
func TestKilledAtEveryStep(t *testing.T) {
	d, ref := start(t)
	pull, victim := pullArgs(ref), host.Unique("victim")
	run := []string{"run", "--rm", ref, victim, "true"}
	var all []killing
	for _, p := range []string{
		"meta.ingest.registered:2", "content.ingest.made:2", "content.commit.synced:2", "content.commit.renamed:2", "meta.content.committed:2",
		"meta.snapshot.prepared", "meta.snapshot.committed", "transfer.layer.applied", "transfer.layer.flushed", "transfer.image.recording",
	} {
		all = append(all, killing{p, pull})
	}
	for _, p := range []string{
		"meta.snapshot.prepared", "task.bundle.made", "task.bundle.linked", "task.shim.started", "task.shim.recorded", "task.shim.connected", "task.created",
		"shim.create.mounted", "shim.create.created", "shim.delete.deleted",
		"task.shim.shutdown", "task.bundle.renamed", "task.bundle.unmounted", "task.bundle.removed", "task.deleted",
	} {
		all = append(all, killing{p, run})
	}
	all = append(all, killing{"meta.gc.swept:2", []string{"i", "rm", "--sync", ref}}) // the first collection is that of the start
	for _, k := range all {
		t.Run(k.command[0]+" "+k.point, func(t *testing.T) { k.test(t, d, ref, victim) })
	}
}

func (k killing) test(t *testing.T, d *host.Daemon, ref, victim string) {
	if slices.Contains(k.command, "pull") {
		d.Ctr(t, "i", "rm", "--sync", ref)
	}
	d.Stop(t)
	d.Setenv("SLIPWAY_FAULT=" + k.point)
	d.Run(t)
	d.Try(t, k.command...)
	if !strings.HasPrefix(k.point, "shim.") {
		host.Until(t, "the daemon is killed at "+k.point, d.Ended)
	}
	if !d.Ended() {
		d.Stop(t)
	}
	d.Setenv()
	d.Run(t)
	d.Ctr(t, pullArgs(ref)...)
	d.Try(t, "t", "rm", "-f", victim)
	d.Try(t, "c", "rm", victim)
	endLeases(t, d)
	if out := d.Ctr(t, "run", "--rm", ref, victim, "echo", "well"); out != "well\n" {
		t.Errorf("after the kill: %q", out)
	}
	empty(t, d)
}

// endLeases ends those of transfers and clients that were killed. They would
// keep for a day what was fetched, so that a transfer can go on from there.
func endLeases(t *testing.T, d *host.Daemon) {
	t.Helper()
	for _, id := range strings.Fields(d.Ctr(t, "leases", "ls", "-q")) {
		d.Ctr(t, "leases", "rm", "--sync", id)
	}
}
