// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/fault"
	"slipway/linux"
)

// Variables that make the test binary something else.
const (
	envOldKernel = "RUNTIME_TEST_OLD_KERNEL" // the tests, as on Linux 4.18
	envCreate    = "RUNTIME_TEST_CREATE"     // a Create of the bundle in this directory
)

func TestMain(m *testing.M) {
	if os.Getenv(envOldKernel) != "" {
		if err := pretendOldKernel(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if dir := os.Getenv(envCreate); dir != "" {
		os.Exit(createBundle(dir))
	}
	os.Exit(m.Run())
}

// pretendOldKernel answers ENOSYS to every system call that Linux got after
// 4.18, in this process and all that it makes.
func pretendOldKernel() error {
	first := map[string]uint32{"amd64": 335, "arm64": 294}[goruntime.GOARCH]
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: first, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	_, err := linux.Seccomp(filter, unix.SECCOMP_FILTER_FLAG_TSYNC)
	return err
}

func TestWorksOnLinux418(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv(envOldKernel) != "" {
		t.Skip("needs root, once")
	}
	cmd := exec.Command(os.Args[0], "-test.timeout=5m",
		"-test.run=^Test(Run|Lifecycle|Exec|Spec|Terminal|Hooks|Join|Extra|Seccomp|NoPivot|Console|Escape|FailedCreate)")
	cmd.Env = append(os.Environ(), envOldKernel+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// leftovers counts what a container could leave: mounts, children, open files
// and groups with its name.
func leftovers(b *box) string {
	t, id := b.t, b.id()
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + id)
	more, _ := filepath.Glob("/sys/fs/cgroup/" + id)
	children := 0
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, name := range tasks {
		data, _ := os.ReadFile(name)
		children += len(strings.Fields(string(data)))
	}
	return fmt.Sprintf("%d mounts, %d files, %d children, %d groups", bytes.Count(mounts, []byte(filepath.Dir(b.bundle))), len(files), children, len(groups)+len(more))
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	limit := int64(-5)
	for name, change := range map[string]func(b *box, c *Config){
		"no program":        func(b *box, c *Config) { b.spec.Process.Args = []string{"nosuch"} },
		"mount source":      func(b *box, c *Config) { b.mount("/x", "bind", "/no/such/source", "bind") },
		"mount type":        func(b *box, c *Config) { b.mount("/x", "nosuchfs", "none") },
		"namespace path":    func(b *box, c *Config) { b.spec.Linux.Namespaces[1].Path = "/no/such/ns" },
		"not a namespace":   func(b *box, c *Config) { b.spec.Linux.Namespaces[1].Path = "/etc/hostname" },
		"device":            func(b *box, c *Config) { b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}} },
		"sysctl":            func(b *box, c *Config) { b.spec.Linux.Sysctl = map[string]string{"net.no.such": "1"} },
		"working directory": func(b *box, c *Config) { b.file("file", "", 0o644); b.spec.Process.Cwd = "/file" },
		"pid file":          func(b *box, c *Config) { c.PidFile = "/no/such/dir/pid" },
		"pidfd socket":      func(b *box, c *Config) { c.PidfdSocket = "/no/such/socket" },
		"console socket": func(b *box, c *Config) {
			b.spec.Process.Terminal = true
			c.ConsoleSocket = os.Stderr // no socket
		},
		"hook": func(b *box, c *Config) {
			b.spec.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/false"}}}
		},
		"limit": func(b *box, c *Config) {
			b.spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &limit, Cpus: "900-901"}}
		},
		"seccomp agent": func(b *box, c *Config) {
			b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/no/such/agent",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}
		},
		"scheduler": func(b *box, c *Config) { b.spec.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_NONE"} },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "true")
			config := b.config()
			change(b, &config)
			program, err := openProgram() // kept from now on
			if err != nil {
				t.Fatal(err)
			}
			program.Close()
			before := leftovers(b)
			_, err = Create(context.Background(), config)
			if err == nil {
				t.Fatal("created")
			}
			if after := leftovers(b); after != before {
				t.Errorf("before: %s; after: %s (%v)", before, after, err)
			}
			if _, err := os.Stat(filepath.Join(b.root, b.id())); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state directory: %v", err)
			}
		})
	}
}

// createBundle is the process that is killed in the test below.
func createBundle(dir string) int {
	c := Container{record: record{Config: recordConfig{Labels: []string{"bundle=" + dir}}}}
	s, err := c.Spec()
	if err == nil {
		_, err = Create(context.Background(), Config{Root: filepath.Join(filepath.Dir(dir), "state"), ID: os.Getenv("ID"), Bundle: dir, Spec: s})
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func TestKilledCreateCanBeDeleted(t *testing.T) {
	for _, point := range []string{"claimed", "recorded", "cgroup", "forked", "started", "hooks", "ready"} {
		t.Run(point, func(t *testing.T) {
			b := newBox(t, "true")
			b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}}
			if point == "forked" {
				userns(b)
			}
			b.config()
			before := leftovers(b)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), envCreate+"="+b.bundle, "ID="+b.id(), fault.Env+"=runtime.create."+point)
			out, _ := cmd.CombinedOutput()
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() {
				t.Fatalf("it was not killed: %s", out)
			}
			c, err := Load(b.root, b.id())
			if err == nil {
				err = c.Delete(context.Background(), true)
			} else if errors.Is(err, errdefs.ErrNotFound) {
				err = Discard(b.root, b.id())
			}
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(b.root, b.id())); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state directory: %v", err)
			}
			if after := leftovers(b); after != before {
				t.Errorf("before: %s; after: %s", before, after)
			}
			if !eventually(func() bool { return !usesRoot(b.bundle) }) {
				t.Error("a process of the container is left")
			}
		})
	}
}

func eventually(cond func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return false
}

// usesRoot says whether a process has a root or a mount below dir.
func usesRoot(dir string) bool {
	names, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	for _, name := range names {
		data, _ := os.ReadFile(name)
		if bytes.Contains(data, []byte(dir)) {
			return true
		}
	}
	return false
}
