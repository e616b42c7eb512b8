// SPDX-License-Identifier: Apache-2.0

package runtime_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// needCRIU skips where CRIU is missing or cannot work on this kernel.
func needCRIU(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("criu check: %v: %s", err, out)
	}
}

// counter is a bundle that writes down how far it has counted. Its output may
// stay a file from outside.
func (l *lab) counter(output string) {
	l.bundle(func(s *specs.Spec) {
		s.Root.Readonly = false
		s.Process.Args = []string{"sh", "-c", output + " i=0; while :; do i=$((i+1)); echo $i > /n.new; mv /n.new /n; sleep 0.02; done"}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bound", Type: "bind", Source: l.t.TempDir(), Options: []string{"rbind", "ro"}})
	})
}

// counts waits until the counter is beyond a number, and returns it.
func (l *lab) counts(beyond int) int {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(filepath.Join(l.dir, "rootfs/n"))
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n > beyond {
			return n
		}
	}
	l.t.Fatalf("the counter does not pass %d", beyond)
	return 0
}

func TestACheckpointIsRestored(t *testing.T) {
	needCRIU(t)
	const silent = "exec >/dev/null 2>&1;"
	for name, c := range map[string]struct{ restorer, output string }{
		"by ours": {runc, silent}, "by the peer": {peer, silent}, "by ours with streams from outside": {runc, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.restorer == "" {
				t.Skip("needs runc 1.5.1")
			}
			l := newLab(t, runc)
			l.counter(c.output)
			l.ok("run", "-d", l.name)
			l.counts(10)
			l.ok("checkpoint", "--leave-running", "--image-path", "first", l.name)
			l.counts(l.counts(0) + 5) // goes on
			l.ok("checkpoint", "--image-path", "second", l.name)
			if r := l.run("state", l.name); r.status == 0 {
				t.Errorf("still there: %s", r.stdout)
			}
			reached := l.counts(0)
			l.command = c.restorer
			l.ok("restore", "-d", "--image-path", "second", l.name)
			l.await(l.name, "running")
			if n := l.counts(reached); n > reached+1000 {
				t.Errorf("from %d to %d", reached, n)
			}
			if got := l.ok("exec", l.name, "echo", "in"); got != "in\n" {
				t.Errorf("exec: %q", got)
			}
			l.ok("delete", "--force", l.name)
		})
	}
}

// Output that was a file from outside goes on to whatever restore is given: a
// pipe, or a file, which is not begun anew.
func TestAFileIsReplacedByARestore(t *testing.T) {
	needCRIU(t)
	l := newLab(t, runc)
	l.bundle(func(s *specs.Spec) {
		s.Root.Readonly = false
		s.Process.Args = []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo $i > /n.new; mv /n.new /n; sleep 0.02; done"}
	})
	file := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := file("first.log"), file("second.log")
	runTo := func(out *os.File, args ...string) {
		t.Helper()
		cmd := exec.Command(l.command, append([]string{"--root", l.root}, args...)...)
		cmd.Dir = l.dir
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	runTo(first, "run", "-d", l.name)
	l.counts(10)
	l.ok("checkpoint", "--image-path", "images", l.name)
	before, err := os.ReadFile(filepath.Join(l.dir, "images/files.img"))
	if err != nil {
		t.Fatal(err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	reached := l.counts(0)
	runTo(w, "restore", "-d", "--image-path", "images", l.name)
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if n, numeric := strconv.Atoi(strings.TrimSpace(line)); err != nil || numeric != nil || n < reached {
		t.Errorf("the pipe gets %q after %d: %v", line, reached, err)
	}
	l.ok("delete", "--force", l.name)

	second.WriteString("kept\n")
	if err := second.Chmod(0o600); err != nil {
		t.Fatal(err)
	}
	runTo(second, "restore", "-d", "--image-path", "images", l.name)
	l.counts(l.counts(0) + 5)
	l.ok("delete", "--force", l.name)
	text, err := os.ReadFile(second.Name())
	if lines := strings.Fields(string(text)); err != nil || len(lines) < 5 || lines[0] != "kept" {
		t.Errorf("the second file: %q, %v", text, err)
	}
	if after, err := os.ReadFile(filepath.Join(l.dir, "images/files.img")); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the images have changed: %v", err)
	}
}

func TestWhatCannotBeCheckpointed(t *testing.T) {
	l := newLab(t, runc)
	l.bundle(args("sleep", "300"))
	l.ok("create", l.name)
	if r := l.run("checkpoint", l.name); r.status != 1 || !strings.Contains(r.stderr, "cannot be checkpointed in created state") {
		t.Errorf("%+v", r)
	}
	for _, c := range [][2]string{
		{"--parent-path=/abs", "must be relative"}, {"--empty-ns=ipc", "not supported"}, {"--page-server=x", "ADDRESS:PORT"}, {"--manage-cgroups-mode=wild", ""},
	} {
		if r := l.run("checkpoint", c[0], l.name); r.status != 1 || !strings.Contains(r.stderr, c[1]) {
			t.Errorf("%s: %+v", c[0], r)
		}
	}
	if r := l.run("restore", "--image-path", l.dir, "other"); r.status != 1 {
		t.Errorf("%+v", r)
	}
}
