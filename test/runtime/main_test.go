// SPDX-License-Identifier: Apache-2.0

// Package runtime_test runs the built runc command: by itself, side by side
// with runc 1.5.1, and below the programs that call an OCI runtime.
//
// RUNC names the command to test, which is built otherwise; PEER_RUNC names
// the other one.
package runtime_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// runc is the command under test, peer is runc 1.5.1 or empty.
var runc, peer string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Println("skipped: needs root")
		return 0
	}
	dir, err := os.MkdirTemp("", "slipway-runtime")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := findCommands(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	before := leftovers()
	code := m.Run()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left := slices.DeleteFunc(leftovers(), func(s string) bool { return slices.Contains(before, s) })
		if len(left) == 0 {
			return code
		}
		if time.Now().After(end) {
			fmt.Println("left behind:\n" + strings.Join(left, "\n"))
			return 1
		}
	}
}

func findCommands(dir string) error {
	runc, peer = os.Getenv("RUNC"), os.Getenv("PEER_RUNC")
	if peer == "" {
		if p, err := filepath.Abs("../../.cache/peers/runc"); err == nil && exists(p) {
			peer = p
		}
	}
	if runc != "" {
		return nil
	}
	runc = filepath.Join(dir, "runc")
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	for _, args := range [][]string{
		{"-o", "../../runtime/init.bin", "../../runtime/init"},
		{"-tags", "embedinit", "-o", runc, "../../cmd/runc"},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w"}, args...)...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build: %w: %s", err, out)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// prefix is what every container and group of these tests is called.
const prefix = "swrt-"

// leftovers are the groups and processes of containers of these tests, and all
// mounts.
func leftovers() []string {
	var out []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(filepath.Base(path), prefix) {
			out = append(out, path)
		}
		return nil
	})
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte("SLIPWAY_RUNTIME_TEST=")) {
			cmdline, _ := os.ReadFile(filepath.Dir(file) + "/cmdline")
			out = append(out, filepath.Dir(file)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, prefix) || strings.Contains(line, "slipway-runtime") {
			out = append(out, line)
		}
	}
	return out
}

// A lab is a state directory and a bundle for one command.
type lab struct {
	t                        *testing.T
	command, root, dir, name string
	global                   []string // options
}

var labs int

func newLab(t *testing.T, command string) *lab {
	t.Helper()
	if !exists("/bin/busybox") {
		t.Skip("needs /bin/busybox (Debian's busybox-static)")
	}
	labs++
	l := &lab{t: t, command: command, dir: t.TempDir(), name: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), labs)}
	l.root = filepath.Join(l.dir, "state")
	if err := makeRootfs(filepath.Join(l.dir, "rootfs")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, _ := os.ReadDir(l.root)
		for _, id := range ids {
			l.run("delete", "--force", id.Name())
		}
	})
	return l
}

func makeRootfs(dir string) error {
	for _, sub := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	text, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), text, 0o755); err != nil {
		return err
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// bundle writes the configuration that `runc spec` makes, edited.
func (l *lab) bundle(edit func(*specs.Spec)) {
	l.t.Helper()
	file := filepath.Join(l.dir, "config.json")
	os.Remove(file)
	cmd := exec.Command(l.command, "spec")
	cmd.Dir = l.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("spec: %v: %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		l.t.Fatal(err)
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(text, s); err != nil {
		l.t.Fatal(err)
	}
	s.Process.Terminal = false
	s.Process.Env = append(s.Process.Env, "SLIPWAY_RUNTIME_TEST=1")
	if slices.Contains(l.global, "--systemd-cgroup") {
		s.Linux.CgroupsPath = "system.slice:swrt:" + strings.TrimPrefix(l.name, prefix)
	}
	edit(s)
	if text, err = json.Marshal(s); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// args is a bundle that runs a command line.
func args(list ...string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = list }
}

func sh(script string) func(*specs.Spec) { return args("sh", "-c", script) }

// A result is what a command did.
type result struct {
	stdout, stderr string
	status         int
}

func (l *lab) run(args ...string) result { return l.feed("", args...) }

// feed runs the command with an input. Output is a file: a container that goes
// on running may keep it.
func (l *lab) feed(stdin string, args ...string) result {
	l.t.Helper()
	cmd := exec.Command(l.command, append(append([]string{"--root", l.root}, l.global...), args...)...)
	cmd.Dir = l.dir
	var out [2]*os.File
	for i := range out {
		f, err := os.CreateTemp(l.dir, "out")
		if err != nil {
			l.t.Fatal(err)
		}
		defer f.Close()
		out[i] = f
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), out[0], out[1]
	if stdin == "" {
		cmd.Stdin = nil
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	r := result{status: cmd.ProcessState.ExitCode()}
	for i, to := range []*string{&r.stdout, &r.stderr} {
		text, err := os.ReadFile(out[i].Name())
		if err != nil {
			l.t.Fatal(err)
		}
		*to = string(text)
	}
	return r
}

// ok runs a command that must succeed and returns its output.
func (l *lab) ok(args ...string) string {
	l.t.Helper()
	r := l.run(args...)
	if r.status != 0 {
		l.t.Fatalf("%v: status %d: %s", args, r.status, r.stderr)
	}
	return r.stdout
}

// await polls the container's status.
func (l *lab) await(id, status string) {
	l.t.Helper()
	var last result
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if last = l.run("state", id); strings.Contains(last.stdout, `"status": "`+status+`"`) {
			return
		}
	}
	l.t.Fatalf("%s is not %s: %s%s", id, status, last.stdout, last.stderr)
}
