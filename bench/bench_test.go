// SPDX-License-Identifier: Apache-2.0

// Package bench compares this system with containerd 2.3.4 and runc 1.5.1, and
// its runtime with crun, on the same machine in the same run. It prints the
// table that docs/perf.md keeps. `make bench` runs it; as a part of the tests
// it does nothing.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"slipway/test/host"
)

func TestMain(m *testing.M) {
	if os.Getenv("SLIPWAY_BENCH") == "" {
		fmt.Println("benchmarks run by: make bench")
		os.Exit(m.Run())
	}
	fmt.Print(heading)
	os.Exit(host.Main(m))
}

// wanted skips the benchmark unless SLIPWAY_BENCH is "all" or names it.
func wanted(t *testing.T, name string) {
	t.Helper()
	w := os.Getenv("SLIPWAY_BENCH")
	if w == "" {
		t.Skip("make bench runs it")
	}
	if w != "all" && !strings.Contains(","+w+",", ","+name+",") {
		t.Skip("not asked for")
	}
}

// pair starts both systems with the image of busybox pulled.
func pair(t *testing.T) (ours, upstream *system, ref string) {
	t.Helper()
	ref = host.StartRegistry(t).Push(t, host.Busybox(t), "library/busybox:latest")
	ours, upstream = systems(t, "")
	for _, s := range []*system{ours, upstream} {
		s.do(t, "i", "pull", "--plain-http", ref)
	}
	return ours, upstream, ref
}

func systems(t *testing.T, upstreamConfig string) (ours, upstream *system) {
	t.Helper()
	return startSystem(t, "ours", installed(t, host.Bin()), ""), startSystem(t, "upstream", installed(t, host.Peers()), upstreamConfig)
}

// both makes a row's sides of one function.
func both(ours, upstream *system, prepare, do func(t *testing.T, s *system, i int)) (a, b side) {
	of := func(s *system) side {
		x := side{Group: s.group, Do: func(t *testing.T, i int) { do(t, s, i) }}
		if prepare != nil {
			x.Prepare = func(t *testing.T, i int) { prepare(t, s, i) }
		}
		return x
	}
	return of(ours), of(upstream)
}

func TestRun(t *testing.T) {
	wanted(t, "run")
	ours, upstream, ref := pair(t)
	a, b := both(ours, upstream, nil, func(t *testing.T, s *system, i int) {
		s.do(t, "run", "--rm", ref, fmt.Sprintf("run-%s-%d", s.name, i), "true")
	})
	row{"ctr run --rm IMAGE ID true", 21, 0.20, a, b, "2.3.4+1.5.1"}.measure(t)
}

func TestExec(t *testing.T) {
	wanted(t, "exec")
	ours, upstream, ref := pair(t)
	for _, s := range []*system{ours, upstream} {
		s.do(t, "run", "-d", ref, "exec-"+s.name, "sleep", "inf")
	}
	a, b := both(ours, upstream, nil, func(t *testing.T, s *system, i int) {
		s.do(t, "t", "exec", "--exec-id", fmt.Sprint("e", i), "exec-"+s.name, "true")
	})
	row{"ctr t exec ... true", 21, 0.25, a, b, "2.3.4+1.5.1"}.measure(t)
	memoryRows(t, ours, upstream, "after 21 execs")
}

// memoryRows prints what the daemons, and the shims of the containers
// exec-NAME, use.
func memoryRows(t *testing.T, ours, upstream *system, when string) {
	t.Helper()
	printMemory := func(name string, a, b memory, goal float64) {
		fmt.Printf("%-44s %-16s PSS %.2f (%d/%d KiB), private %.2f (%d/%d KiB)   %s\n", name, "2.3.4+1.5.1",
			float64(a.PSS)/float64(b.PSS), a.PSS, b.PSS, float64(a.Private)/float64(b.Private), a.Private, b.Private, target(goal))
	}
	printMemory("daemon, "+when, memoryOf(t, ours.d.Pid()), memoryOf(t, upstream.d.Pid()), 0.6)
	printMemory("shim, "+when, memoryOf(t, ours.shim(t, "exec-ours")), memoryOf(t, upstream.shim(t, "exec-upstream")), 0.5)
}

func TestIdleMemory(t *testing.T) {
	wanted(t, "memory")
	ours, upstream, ref := pair(t)
	for _, s := range []*system{ours, upstream} {
		s.do(t, "run", "-d", ref, "exec-"+s.name, "sleep", "inf")
	}
	memoryRows(t, ours, upstream, "one container")
}

func TestParallel(t *testing.T) {
	wanted(t, "parallel")
	ours, upstream, ref := pair(t)
	a, b := both(ours, upstream, nil, func(t *testing.T, s *system, i int) {
		var all sync.WaitGroup
		for n := range 64 {
			all.Go(func() { s.do(t, "run", "--rm", ref, fmt.Sprintf("par-%s-%d-%d", s.name, i, n), "true") })
		}
		all.Wait()
	})
	row{"64 x ctr run --rm at once", 5, 0.25, a, b, "2.3.4+1.5.1"}.measure(t)
}

// bundle is an OCI bundle of busybox that runs true.
func bundle(t *testing.T) string {
	t.Helper()
	dir := host.TempDir(t)
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tar", "-x", "-C", root)
	cmd.Stdin = strings.NewReader(string(host.BusyboxLayer(t)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	spec := exec.Command(filepath.Join(host.Peers(), "runc"), "spec")
	spec.Dir = dir
	if out, err := spec.CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v: %s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config["ociVersion"] = "1.0.2" // Debian's crun knows no later one
	process := config["process"].(map[string]any)
	process["args"], process["terminal"] = []string{"true"}, false
	text, err = json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRuntime(t *testing.T) {
	wanted(t, "runtime")
	host.Need(t, filepath.Join(host.Bin(), "runc"), filepath.Join(host.Peers(), "runc"), "crun")
	hideUnified(t)
	b := bundle(t)
	ourBin, peerBin := installed(t, host.Bin()), installed(t, host.Peers())
	measured := func(name, program string) side {
		g := newGroup(t, name)
		return side{Group: g, Do: func(t *testing.T, i int) {
			line := g.wrap([]string{program, "run", "--bundle", b, fmt.Sprintf("bench-%s-%d", name, i)})
			if out, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", program, err, out)
			}
		}}
	}
	ours := measured("runc-ours", filepath.Join(ourBin, "runc"))
	row{"runc run true", 31, 0.30, ours, measured("runc", filepath.Join(peerBin, "runc")), "runc 1.5.1"}.measure(t)
	row{"runc run true", 31, 1.00, ours, measured("crun", "crun"), "crun"}.measure(t)
}

// hideUnified takes the unified hierarchy of a hybrid host out of the sight of
// what this goroutine starts: crun refuses a host where it has controllers.
func hideUnified(t *testing.T) {
	t.Helper()
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err != nil {
		return
	}
	// The thread ends with the test's goroutine, because it stays locked.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(unified, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

// pulls measures pulls of images into an empty store.
func pulls(t *testing.T, name string, times int, goal float64, upstreamConfig string, refs ...string) {
	t.Helper()
	ours, upstream := systems(t, upstreamConfig)
	clean := func(t *testing.T, s *system, _ int) {
		for _, ref := range strings.Fields(s.do(t, "i", "ls", "-q")) {
			s.do(t, "i", "rm", "--sync", ref)
		}
		s.do(t, "content", "prune", "references")
	}
	a, b := both(ours, upstream, clean, func(t *testing.T, s *system, _ int) {
		var all sync.WaitGroup
		for _, ref := range refs {
			all.Go(func() { s.do(t, "i", "pull", "--plain-http", ref) })
		}
		all.Wait()
	})
	row{name, times, goal, a, b, "2.3.4"}.measure(t)
	x, y := memoryOf(t, ours.d.Pid()), memoryOf(t, upstream.d.Pid())
	fmt.Printf("%-44s %-16s %d/%d MiB\n", "  peak of the daemon", "2.3.4", x.Peak>>10, y.Peak>>10)
}

func TestPullSevenLayers(t *testing.T) {
	wanted(t, "pull")
	ref := host.StartRegistry(t).Push(t, sevenLayers(t), "bench/seven:latest")
	pulls(t, "pull + unpack, 7 layers", 5, 0.45, "", ref)
}

func TestPullAgainstTuned(t *testing.T) {
	wanted(t, "tuned")
	ref := host.StartRegistry(t).Push(t, sevenLayers(t), "bench/seven:latest")
	pulls(t, "pull + unpack, 7 layers, peer tuned", 5, 0.70, tuned, ref)
}

// tuned is the configuration that makes upstream fastest.
const tuned = `
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 8
  concurrent_layer_fetch_buffer = 8388608
  max_concurrent_unpacks = 4
`

func TestPullOneLayer(t *testing.T) {
	wanted(t, "one")
	ref := host.StartRegistry(t).Push(t, host.Image(t, ocispec.ImageConfig{}, files(t, "/usr", 0, 800<<20)), "bench/one:latest")
	pulls(t, "pull + unpack, one layer", 5, 0.60, "", ref)
}

func TestPullTinyLayers(t *testing.T) {
	wanted(t, "tiny")
	var layers [][]byte
	for i := range 200 {
		layers = append(layers, host.Layer(t, host.Entry{Name: fmt.Sprintf("tiny-%d", i), Mode: 0o644, Content: fmt.Appendf(nil, "file %d\n", i)}))
	}
	ref := host.StartRegistry(t).Push(t, host.Image(t, ocispec.ImageConfig{}, layers...), "bench/tiny:latest")
	pulls(t, "pull + unpack, 200 tiny layers", 5, 0.40, "", ref)
}

func TestPullSharedLayers(t *testing.T) {
	wanted(t, "shared")
	r := host.StartRegistry(t)
	common := [][]byte{files(t, "/usr", 0, 100<<20), files(t, "/usr", 100<<20, 100<<20)}
	var refs []string
	for i := range 4 {
		own := host.Layer(t, host.Entry{Name: "own", Mode: 0o644, Content: fmt.Appendf(nil, "image %d\n", i)})
		refs = append(refs, r.Push(t, host.Image(t, ocispec.ImageConfig{}, append(common[:2:2], own)...), fmt.Sprintf("bench/shared%d:latest", i)))
	}
	pulls(t, "pull + unpack, 4 images sharing layers", 5, 0.40, "", refs...)
}

func TestPushImportExport(t *testing.T) {
	wanted(t, "push")
	r := host.StartRegistry(t)
	ref := r.Push(t, sevenLayers(t), "bench/seven:latest")
	ours, upstream := systems(t, "")
	for _, s := range []*system{ours, upstream} {
		s.do(t, "i", "pull", "--plain-http", ref)
	}
	dir := host.TempDir(t)
	var to string // an empty registry each time
	a, b := both(ours, upstream, func(t *testing.T, s *system, i int) {
		to = host.StartRegistry(t).Host + "/bench/pushed:1"
	}, func(t *testing.T, s *system, i int) {
		s.do(t, "i", "push", "--plain-http", to, ref)
	})
	row{"push, 7 layers", 3, 0.60, a, b, "2.3.4"}.measure(t)
	a, b = both(ours, upstream, nil, func(t *testing.T, s *system, i int) {
		s.do(t, "i", "export", filepath.Join(dir, s.name+".tar"), ref)
	})
	row{"export, 7 layers", 3, 0.60, a, b, "2.3.4"}.measure(t)
	remove := func(t *testing.T, s *system, _ int) {
		s.do(t, "i", "rm", "--sync", ref)
		s.do(t, "content", "prune", "references")
	}
	a, b = both(ours, upstream, remove, func(t *testing.T, s *system, i int) {
		s.do(t, "i", "import", filepath.Join(dir, s.name+".tar"))
	})
	row{"import + unpack, 7 layers", 3, 0.60, a, b, "2.3.4"}.measure(t)
}
