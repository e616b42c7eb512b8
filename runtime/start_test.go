// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/cgroup"
)

func TestAWaitingInitHasNoFilesOfItsCallers(t *testing.T) {
	b := newBox(t, "true")
	name := filepath.Join(t.TempDir(), "inherited")
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR, 0o600) // not closed on exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d/fd", c.Init().Pid)
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if target, _ := os.Readlink(filepath.Join(dir, f.Name())); target == name {
			t.Errorf("descriptor %s is %s", f.Name(), target)
		}
	}
}

func TestProcessesAreNotBoundToTheCallersProcessors(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() < 2 {
		t.Skip("needs two processors")
	}
	one := all
	for n := 0; one.Count() > 1; n++ {
		one.Clear(n)
	}
	b := newBox(t, "sleep 1000")
	done := make(chan struct{})
	go func() { // its thread ends with it
		defer close(done)
		runtime.LockOSThread()
		if err := linux.SetAffinity(0, &one); err != nil {
			t.Error(err)
			return
		}
		c, _, err := b.create(nil)
		if err != nil {
			t.Error(err)
			return
		}
		var got unix.CPUSet
		if err := unix.SchedGetaffinity(c.Init().Pid, &got); err != nil || got != all {
			t.Errorf("init: %d processors, %v, want %d", got.Count(), err, all.Count())
		}
		out, _, err := execute(t, c, nil, "grep", "-c", "Cpus_allowed_list:.*[-,]", "/proc/self/status")
		if err != nil || out != "1" {
			t.Errorf("exec: %q, %v", out, err)
		}
	}()
	<-done
}

// logged is a logger, and what it has logged at level and above.
func logged(level slog.Level) (*slog.Logger, *bytes.Buffer) {
	out := &bytes.Buffer{}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})), out
}

func TestAStartIsLogged(t *testing.T) {
	b := newBox(t, "sleep 1000")
	log, out := logged(slog.LevelDebug)
	c, _, err := b.create(func(c *Config) { c.Log = log })
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nsexec container setup", "child process in init()", "init: closing the pipe to signal completion"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the log of create: %s", want, out)
		}
	}
	out.Reset()
	_, _, err = execute(t, c, func(p *ProcessConfig) {
		p.Log, p.Spec.ExecCPUAffinity = log, &specs.CPUAffinity{Initial: "0"}
	}, "true")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nsexec container setup", "affinity: 0x1\"", "child process in init()", "setns_init: about to exec"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the log of exec: %s", want, out)
		}
	}
}

func TestCapabilitiesThatAreNotGivenAreNamed(t *testing.T) {
	b := newBox(t, "grep CapAmb /proc/self/status")
	caps := b.spec.Process.Capabilities
	caps.Inheritable = []string{"CAP_KILL"}
	caps.Ambient = []string{"CAP_KILL", "CAP_CHOWN"}
	caps.Bounding = append([]string{"CAP_UNKNOWN"}, caps.Bounding...)
	log, warnings := logged(slog.LevelWarn)
	out, _, err := b.run(func(c *Config) { c.Log = log })
	if err != nil || out != "CapAmb:\t0000000000000020" {
		t.Errorf("printed %q, %v", out, err)
	}
	for _, want := range []string{"ignoring unknown or unavailable capabilities: [CAP_UNKNOWN]", "can't raise ambient capability CAP_CHOWN: operation not permitted"} {
		if !strings.Contains(warnings.String(), want) {
			t.Errorf("no warning %q in: %s", want, warnings)
		}
	}
	if n := strings.Count(warnings.String(), "\n"); n != 2 {
		t.Errorf("%d warnings, want 2: %s", n, warnings)
	}
}

func TestALimitOfOneTask(t *testing.T) {
	for _, limit := range []int64{0, 1} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			b := newBox(t, "read x < /proc/self/cgroup; echo alone; $(true) || echo cannot fork")
			b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
			c, _, err := b.create(nil)
			if err != nil {
				t.Fatal(err)
			}
			group, err := c.Cgroup()
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(group.Path("pids"), "pids.max"))
			if err != nil || strings.TrimSpace(string(got)) != "1" {
				t.Errorf("pids.max is %q, %v", got, err)
			}
			if err := c.Start(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAFrozenGroupIsRefused(t *testing.T) {
	b := newBox(t, "true")
	b.spec.Linux.CgroupsPath = "/slipway-test-" + b.id()
	group, err := cgroup.New(cgroup.Config{Path: b.spec.Linux.CgroupsPath, ID: b.id()})
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Create(0, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Delete(); err != nil {
			t.Error(err)
		}
	})
	if err := group.Freeze(); err != nil {
		t.Fatal(err)
	}
	_, err = Create(context.Background(), b.config())
	if err == nil || !strings.Contains(err.Error(), "container's cgroup unexpectedly frozen") || !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("error is %v", err)
	}
	if !group.Exists() {
		t.Error("the group was removed")
	}
}
