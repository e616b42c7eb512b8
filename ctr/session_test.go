// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ctr": func() { os.Exit(Main()) }})
}

const patience = 60 * time.Second

// TestSessions runs the scripts against a daemon: ours, or else its peer.
// SLIPWAY_DAEMON names another. Each script has a namespace of its own and
//
//	$IMAGE           a busybox image in a registry on loopback
//	$ROOT            the daemon's root
//	$PEER            the peer's ctr
//	same ARG...      runs ctr and its peer, and compares what they print
//	until RE ARG...  runs ctr until its output matches
//	[peer]           the peer's ctr is there
func TestSessions(t *testing.T) {
	d := startDaemon(t)
	image := serveImage(t)
	t.Run("terminal", func(t *testing.T) { testTerminal(t, d, image) })
	runScripts(t, d, image, "testdata/script")
}

// TestDamage runs scripts that damage the root of a daemon of their own.
func TestDamage(t *testing.T) {
	d := startDaemon(t)
	runScripts(t, d, serveImage(t), "testdata/damage")
}

func runScripts(t *testing.T, d *daemon, image, dir string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			ns := namespace(strings.TrimPrefix(filepath.Base(e.WorkDir), "script-"))
			e.Setenv("CONTAINERD_ADDRESS", d.address)
			e.Setenv("CONTAINERD_NAMESPACE", ns)
			e.Setenv("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "true")
			e.Setenv("IMAGE", image)
			e.Setenv("PEER", peer("ctr"))
			e.Setenv("ROOT", filepath.Dir(d.address)+"/root")
			e.Setenv("REGISTRY", strings.Split(image, "/")[0])
			e.Defer(func() { d.clean(t, ns) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"same": same, "until": until},
		Condition: func(name string) (bool, error) {
			if name == "peer" {
				return peer("ctr") != "", nil
			}
			return false, fmt.Errorf("unknown condition %s", name)
		},
	})
}

// namespace is one that no other test process uses: runtimes keep their state
// by namespace, not by daemon.
func namespace(name string) string { return fmt.Sprintf("ctr-%s-%d", name, os.Getpid()) }

// peer is the path of a program of containerd's, empty if it is not there.
func peer(name string) string { return existing("../.cache/peers/" + name) }

func existing(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

type daemon struct {
	address string
	ctr     string
	logs    *bytes.Buffer
}

func startDaemon(t *testing.T) *daemon {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	binary := os.Getenv("SLIPWAY_DAEMON")
	for _, b := range []string{existing("../bin/containerd"), peer("containerd")} {
		if binary == "" {
			binary = b
		}
	}
	if binary == "" {
		t.Skip("needs bin/containerd or its peer")
	}
	for _, need := range []string{"runc", "busybox"} {
		if _, err := osexec.LookPath(need); err != nil {
			t.Skip("needs ", need)
		}
	}
	dir, err := os.MkdirTemp("", "ctr") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &daemon{address: dir + "/containerd.sock", logs: &bytes.Buffer{}}
	config := fmt.Sprintf(`version = 4
root = "%[1]s/root"
state = "%[1]s/state"
[plugins."io.containerd.server.v1.grpc"]
  address = "%[1]s/containerd.sock"
[plugins."io.containerd.server.v1.ttrpc"]
  address = "%[1]s/containerd.sock.ttrpc"
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "%[1]s/s"
`, dir)
	if err := errors.Join(os.WriteFile(dir+"/config.toml", []byte(config), 0o600), os.Mkdir(dir+"/s", 0o700)); err != nil {
		t.Fatal(err)
	}
	c := osexec.Command(binary, "--config", dir+"/config.toml")
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	c.Stdout, c.Stderr = d.logs, d.logs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(unix.SIGTERM)
		c.Wait()
		unmountBelow(t, dir)
		if t.Failed() {
			log := d.logs.String()
			t.Logf("daemon's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	if d.ctr, err = osexec.LookPath("ctr"); err != nil { // testscript's, of this program
		t.Fatal(err)
	}
	d.wait(t)
	return d
}

func (d *daemon) wait(t *testing.T) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := d.run("", "version")
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no daemon: %v: %s\n%s", err, out, d.logs)
		}
	}
}

func (d *daemon) run(ns string, args ...string) (string, error) {
	c := osexec.Command(d.ctr, append([]string{"-a", d.address, "-n", ns}, args...)...)
	out, err := c.CombinedOutput()
	return string(out), err
}

// clean removes what a script has left behind.
func (d *daemon) clean(t *testing.T, ns string) {
	for _, group := range []struct {
		list   []string
		remove []string
	}{
		{[]string{"t", "ls", "-q"}, []string{"t", "rm", "-f"}},
		{[]string{"c", "ls", "-q"}, []string{"c", "rm"}},
		{[]string{"i", "ls", "-q"}, []string{"i", "rm", "--sync"}},
		{[]string{"leases", "ls", "-q"}, []string{"leases", "rm", "--sync"}},
	} {
		out, _ := d.run(ns, group.list...)
		if names := strings.Fields(out); len(names) > 0 {
			d.run(ns, append(group.remove, names...)...)
		}
	}
	d.run(ns, "ns", "rm", "--cgroup", ns) // which has blobs until the next collection
	os.Remove("/run/containerd/runc/" + ns)
}

// unmountBelow takes down what a daemon that failed has left.
func unmountBelow(t *testing.T, dir string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir) {
			t.Errorf("left mounted: %s", f[4])
			unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

// serveImage serves Debian's busybox as an image and returns its name.
func serveImage(t *testing.T) string {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	putImage(t, server.URL, "library/busybox", busyboxLayer(t))
	return host + "/library/busybox:latest"
}

// both runs ctr and its peer at once.
func both(ts *testscript.TestScript, args []string) (ours, theirs string) {
	run := func(binary string) string {
		c := osexec.Command(binary, args...)
		for _, name := range []string{"CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS"} {
			c.Env = append(c.Env, name+"="+ts.Getenv(name))
		}
		c.Env = append(c.Env, "PATH="+os.Getenv("PATH"))
		c.Dir = ts.Getenv("WORK")
		var stdout, stderr strings.Builder
		c.Stdout, c.Stderr = &stdout, &stderr
		err := c.Run()
		return fmt.Sprintf("%s%s(%v)\n", stdout.String(), stderr.String(), err)
	}
	var pair sync.WaitGroup
	pair.Go(func() { theirs = run(peer("ctr")) })
	ctr, err := osexec.LookPath("ctr")
	ts.Check(err)
	ours = run(ctr)
	pair.Wait()
	return ours, theirs
}

// What differs between two commands that print the same.
var varies = regexp.MustCompile(`(?m)^time="[^"]*"|Go version: .*|\d+ seconds?|Less than a second`)

func same(ts *testscript.TestScript, _ bool, args []string) {
	if peer("ctr") == "" {
		return
	}
	ours, theirs := both(ts, args)
	if a, b := varies.ReplaceAllString(ours, "…"), varies.ReplaceAllString(theirs, "…"); a != b {
		ts.Fatalf("ctr %s\n--- prints\n%s--- and its peer\n%s", strings.Join(args, " "), a, b)
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until regexp ctr-arguments...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec("ctr", args[1:]...))
		out := ts.ReadFile("stdout")
		if want.MatchString(out) != neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("still after %v: %s", patience, out)
		}
	}
}
