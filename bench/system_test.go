// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"slipway/test/host"
)

// A system is a daemon with its own client, shim and runtime.
type system struct {
	name  string
	d     *host.Daemon
	group *group
	ctr   string
}

// installed copies the commands in bin to a directory of their own, as a package
// does: those that the linker has just written start a sixth slower, since they
// lie in the page cache in smaller pieces.
func installed(t *testing.T, bin string) string {
	t.Helper()
	dir := host.TempDir(t)
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"} {
		data, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// startSystem starts the daemon of the commands in bin, in a group of its own.
func startSystem(t *testing.T, name, bin, config string) *system {
	t.Helper()
	g := newGroup(t, name)
	// The daemon is a child of this process: this process joins the group
	// while it starts it.
	leave := g.enter(t)
	defer leave()
	return &system{name, host.Start(t, host.Options{Bin: bin, Config: config}), g, filepath.Join(bin, "ctr")}
}

// enter moves this process into the group and returns what moves it back.
func (g *group) enter(t *testing.T) func() {
	t.Helper()
	move := func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	move(g.dir)
	return func() { move(filepath.Dir(g.dir)) }
}

// do runs the system's own ctr; the command must succeed.
func (s *system) do(t *testing.T, args ...string) string {
	t.Helper()
	line := s.group.wrap(append([]string{s.ctr, "-a", s.d.Address}, args...))
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), s.d.Path())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: ctr %s: %v: %s\n%s", s.name, strings.Join(args, " "), err, out, s.d.Tail())
	}
	return string(out)
}

// memory is what a process uses, in KiB.
type memory struct{ PSS, Private, Peak int }

func memoryOf(t *testing.T, pid int) memory {
	t.Helper()
	var m memory
	for key, n := range numbers(t, fmt.Sprintf("/proc/%d/smaps_rollup", pid)) {
		switch key {
		case "Pss":
			m.PSS = n
		case "Private_Clean", "Private_Dirty":
			m.Private += n
		}
	}
	m.Peak = numbers(t, fmt.Sprintf("/proc/%d/status", pid))["VmHWM"]
	return m
}

// numbers reads a file of lines like "Key: 12 kB".
func numbers(t *testing.T, file string) map[string]int {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[string]int{}
	for s := bufio.NewScanner(f); s.Scan(); {
		key, rest, _ := strings.Cut(s.Text(), ":")
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.Atoi(f[0]); err == nil {
				found[key] = n
			}
		}
	}
	return found
}

// shim is the process id of the shim of a container.
func (s *system) shim(t *testing.T, id string) int {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if args := string(line); strings.Contains(args, "containerd-shim") && strings.Contains(args, "\x00"+id+"\x00") && strings.Contains(args, s.d.Address) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			return pid
		}
	}
	t.Fatalf("%s: no shim of %s", s.name, id)
	return 0
}
