// SPDX-License-Identifier: Apache-2.0

// Package concurrency lets many clients work at once and looks for what they
// lose.
package concurrency

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

const clients = 16

// duration is how long the clients work: SLIPWAY_CONCURRENCY, such as 10m, which
// also builds the daemon and the shim with the race detector.
func duration(t *testing.T) (d time.Duration, race bool) {
	text := os.Getenv("SLIPWAY_CONCURRENCY")
	if text == "" {
		return 15 * time.Second, false
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d, true
}

// raceBuild builds the commands with the race detector and returns their
// directory.
func raceBuild(t *testing.T) string {
	t.Helper()
	host.Need(t, "gcc")
	dir := host.TempDir(t)
	for _, name := range []string{"containerd", "containerd-shim-runc-v2"} {
		cmd := exec.Command("make", "-s", "race-build", "OUT="+dir, "COMMAND="+name)
		cmd.Dir = host.Root()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", name, err, out)
		}
	}
	return dir
}

func TestManyClientsLoseNothing(t *testing.T) {
	host.NeedBuilt(t)
	work, race := duration(t)
	opts := host.Options{}
	if race {
		opts.Bin = raceBuild(t)
	}
	d, r := host.Start(t, opts), host.StartRegistry(t)
	var refs []string
	for i := range 3 {
		own := host.Layer(t, host.Entry{Name: "own", Mode: 0o644, Content: fmt.Appendf(nil, "%d\n", i)})
		refs = append(refs, r.Push(t, host.Busybox(t, own), fmt.Sprintf("library/busybox%d:latest", i)))
	}
	d.Ctr(t, "i", "pull", "--plain-http", refs[0]) // stays
	end := time.Now().Add(work)
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			c := &worker{t: t, d: d, refs: refs, name: fmt.Sprint("w", n), random: rand.New(rand.NewPCG(1, uint64(n)))}
			for time.Now().Before(end) && !t.Failed() {
				c.step()
			}
		})
	}
	all.Wait()
	check(t, d, refs[0])
}

// check looks at what is left when all is done.
func check(t *testing.T, d *host.Daemon, kept string) {
	t.Helper()
	for _, args := range [][]string{{"t", "ls", "-q"}, {"c", "ls", "-q"}, {"leases", "ls", "-q"}} {
		if out := strings.TrimSpace(d.Ctr(t, args...)); out != "" {
			t.Errorf("ctr %s: %s", strings.Join(args, " "), out)
		}
	}
	if out := d.Ctr(t, "run", "--rm", kept, "last", "cat", "/own"); out != "0\n" {
		t.Errorf("the image that stayed printed %q", out)
	}
	log, err := os.ReadFile(d.Log())
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if i := strings.Index(string(log), word); i >= 0 {
			t.Errorf("the daemon's log: %s", log[max(0, i-200):min(len(log), i+4000)])
		}
	}
	if bundles, _ := filepath.Glob(filepath.Join(d.Dir, "state", "io.containerd.runtime.v2.task", "default", "*")); len(bundles) > 0 {
		t.Errorf("bundles are left: %v", bundles)
	}
}

// A worker is one client that does one thing after another, as it is minded.
type worker struct {
	t      *testing.T
	d      *host.Daemon
	refs   []string
	name   string
	random *rand.Rand
	count  int
}

func (w *worker) step() {
	w.count++
	id := fmt.Sprint(w.name, "-", w.count)
	steps := []func(id string){w.run, w.run, w.run, w.detached, w.exitCode, w.pull, w.tag, w.prune, w.lease, w.list}
	steps[w.random.IntN(len(steps))](id)
}

// ctr runs a command that must succeed.
func (w *worker) ctr(args ...string) string {
	r := w.d.Try(w.t, args...)
	if r.Code != 0 {
		w.t.Errorf("ctr %s: exit code %d: %s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

func (w *worker) run(id string) {
	if out := w.ctr("run", "--rm", w.refs[0], id, "echo", id); out != id+"\n" {
		w.t.Errorf("%s printed %q", id, out)
	}
}

func (w *worker) exitCode(id string) {
	code := w.random.IntN(200)
	if r := w.d.Try(w.t, "run", "--rm", w.refs[0], id, "sh", "-c", fmt.Sprint("exit ", code)); r.Code != code {
		w.t.Errorf("%s: exit code %d, not %d: %s", id, r.Code, code, r.Stderr)
	}
}

func (w *worker) detached(id string) {
	w.ctr("run", "-d", w.refs[0], id, "sleep", "1000")
	if out := w.ctr("t", "exec", "--exec-id", "e", id, "cat", "/own"); out != "0\n" {
		w.t.Errorf("exec in %s printed %q", id, out)
	}
	w.ctr("t", "kill", "-s", "SIGKILL", id)
	if r := w.d.Try(w.t, "t", "rm", "-f", id); r.Code != 0 && r.Code != 137 {
		w.t.Errorf("ctr t rm -f %s: exit code %d: %s", id, r.Code, r.Stderr)
	}
	w.ctr("c", "rm", id)
}

// pull pulls and removes images that others pull and remove too.
func (w *worker) pull(string) {
	ref := w.refs[1+w.random.IntN(2)]
	// Another worker may have removed the image before ctr reads it.
	if r := w.d.Try(w.t, "i", "pull", "--plain-http", ref); r.Code != 0 && !strings.Contains(r.Stderr, fmt.Sprintf("image %q: not found", ref)) {
		w.t.Errorf("ctr i pull %s: exit code %d: %s", ref, r.Code, r.Stderr)
	}
	if w.random.IntN(2) == 0 {
		w.d.Try(w.t, "i", "rm", ref)
	}
}

func (w *worker) tag(id string) {
	w.ctr("i", "tag", w.refs[0], "tags/"+id+":1")
	if out := w.ctr("run", "--rm", "tags/"+id+":1", id, "cat", "/own"); out != "0\n" {
		w.t.Errorf("%s printed %q", id, out)
	}
	w.ctr("i", "rm", "--sync", "tags/"+id+":1")
}

func (w *worker) prune(string) { w.ctr("content", "prune", "references") }

func (w *worker) lease(id string) {
	w.ctr("leases", "create", "--id", id)
	w.ctr("leases", "delete", "--sync", id)
}

func (w *worker) list(string) {
	for _, args := range [][]string{{"i", "ls"}, {"c", "ls"}, {"t", "ls"}, {"snapshots", "ls"}, {"content", "ls"}} {
		w.ctr(args...)
	}
}
