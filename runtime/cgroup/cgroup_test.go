// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func ptr[T any](v T) *T { return &v }

// drivers runs a test with the file system and, where it runs, systemd.
func drivers(t *testing.T, test func(t *testing.T, c Config)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	id := fmt.Sprintf("slipway-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	t.Run("fs", func(t *testing.T) {
		test(t, Config{ID: id, Path: "/slipway-test/" + id})
	})
	t.Run("systemd", func(t *testing.T) {
		if _, err := os.Stat("/run/systemd/private"); err != nil {
			t.Skip("systemd does not run here")
		}
		test(t, Config{ID: id, Systemd: true})
	})
}

// sleeper starts a process that lasts as long as the test.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// create makes the groups around a sleeping process.
func create(t *testing.T, c Config, r *specs.LinuxResources) (*Manager, *exec.Cmd) {
	t.Helper()
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := sleeper(t)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if err := m.Delete(); err != nil {
			t.Error(err)
		}
		for _, dir := range m.Paths() {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left", dir)
			}
			unix.Rmdir(filepath.Dir(dir)) // the parent of the tests, when it is empty
		}
	})
	if err := m.Create(cmd.Process.Pid, r); err != nil {
		t.Fatal(err)
	}
	return m, cmd
}

func TestAProcessIsInTheGroupAndDiesWithIt(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, cmd := create(t, c, nil)
		pids, err := m.Pids()
		if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
			t.Fatalf("got %v, %v, want %d", pids, err, cmd.Process.Pid)
		}
		if !m.Exists() {
			t.Error("the group does not exist")
		}
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if ws := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); ws.Signal() != unix.SIGKILL {
			t.Errorf("ended by %v", cmd.ProcessState)
		}
	})
}

func TestGroupsBelowAreNamedByController(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, cmd := create(t, c, nil)
		for path, want := range map[string]string{
			"..": "bad sub cgroup path", "/..": "bad sub cgroup path", "a/../../b": "bad sub cgroup path",
			"nosuch": "no such file or directory",
		} {
			err := m.JoinSub(cmd.Process.Pid, map[string]string{"": path})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error is %v, want %s", path, err, want)
			}
		}
		err := m.JoinSub(cmd.Process.Pid, map[string]string{"whatever": "/"})
		if err == nil || !strings.Contains(err.Error(), "unknown controller whatever") {
			t.Errorf("error is %v", err)
		}
		if err := m.JoinSub(cmd.Process.Pid, map[string]string{"": "/"}); err != nil {
			t.Error(err)
		}
	})
}

func TestFreezeAndThaw(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, cmd := create(t, c, nil)
		for _, freeze := range []bool{true, false, true} {
			act := m.Thaw
			if freeze {
				act = m.Freeze
			}
			if err := act(); err != nil {
				t.Fatal(err)
			}
			if frozen, err := m.Frozen(); err != nil || frozen != freeze {
				t.Fatalf("frozen: %v, %v, want %v", frozen, err, freeze)
			}
		}
		if err := m.Kill(); err != nil { // a frozen group dies too
			t.Fatal(err)
		}
		cmd.Wait()
	})
}

func TestSignalReachesAll(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, cmd := create(t, c, nil)
		other := sleeper(t)
		if err := m.Join(other.Process.Pid, 0); err != nil {
			t.Fatal(err)
		}
		if err := m.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*exec.Cmd{cmd, other} {
			if c.Wait(); c.ProcessState.String() != "signal: terminated" {
				t.Errorf("ended by %v", c.ProcessState)
			}
		}
	})
}

// A knob is a control file and what it must read; v1 and v2 name it.
type knob struct{ v1dir, v1, v2, want1, want2 string }

func (k knob) check(t *testing.T, m *Manager) {
	t.Helper()
	dir, file, want := m.Path(k.v1dir), k.v1, k.want1
	if m.V2() {
		file, want = k.v2, k.want2
	}
	if file == "" || dir == "" {
		return
	}
	got, err := read(dir, file)
	if errors.Is(err, os.ErrNotExist) {
		t.Logf("%s is not on this host", file)
		return
	}
	if got != want {
		t.Errorf("%s: got %q, want %q", file, got, want)
	}
}

func TestLimitsReachTheirFiles(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, _ := create(t, c, &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20))},
			CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0", Mems: "0"},
			Pids:   &specs.LinuxPids{Limit: ptr(int64(50))},
		})
		for _, k := range []knob{
			{"memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
			{"memory", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432"},
			{"cpu", "cpu.shares", "cpu.weight", "512", "59"},
			{"cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
			{"cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0"},
			{"pids", "pids.max", "pids.max", "50", "50"},
		} {
			k.check(t, m)
		}
		err := m.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(200000))}})
		if err != nil {
			t.Fatal(err)
		}
		knob{"cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 200000"}.check(t, m)
		err = m.Set(&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(int64(128 << 20))},
			CPU:    &specs.LinuxCPU{Quota: ptr(int64(-1)), Period: ptr(uint64(50000))},
			Pids:   &specs.LinuxPids{Limit: ptr(int64(-1))},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []knob{
			{"memory", "memory.limit_in_bytes", "memory.max", "134217728", "134217728"},
			{"cpu", "cpu.cfs_quota_us", "cpu.max", "-1", "max 50000"},
			{"pids", "pids.max", "pids.max", "max", "max"},
		} {
			k.check(t, m)
		}
	})
}

func TestLowerPeriodThanQuotaAllows(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, _ := create(t, c, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(20000))}})
		err := m.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(5000)), Period: ptr(uint64(10000)), Burst: ptr(uint64(1000))}})
		if err != nil {
			t.Fatal(err)
		}
		knob{"cpu", "cpu.cfs_period_us", "cpu.max", "10000", "5000 10000"}.check(t, m)
		knob{"cpu", "cpu.cfs_burst_us", "cpu.max.burst", "1000", "1000"}.check(t, m)
	})
}

// TestDevices opens devices from inside the group, by a shell that joined it.
func TestDevices(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		rules := []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			allowed("c", 1, 11, "rwm"), // kmsg
		}
		m, _ := create(t, c, &specs.LinuxResources{Devices: rules})
		wantOpen(t, m, "/dev/null", true)
		wantOpen(t, m, "/dev/kmsg", true)
		if err := m.Set(&specs.LinuxResources{Devices: rules[:1]}); err != nil {
			t.Fatal(err)
		}
		wantOpen(t, m, "/dev/zero", true)
		wantOpen(t, m, "/dev/kmsg", false)
	})
}

func wantOpen(t *testing.T, m *Manager, device string, want bool) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; exec 3<"+device)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.Join(cmd.Process.Pid, 0); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(in, "go")
	in.Close()
	if err := cmd.Wait(); (err == nil) != want {
		t.Errorf("open %s: %v, want allowed %v", device, err, want)
	}
}

func TestStats(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, _ := create(t, c, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}, Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}})
		s, err := m.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.Pids.Current != 1 || s.Pids.Limit != 9 {
			t.Errorf("pids: %+v", s.Pids)
		}
		if s.Memory.Usage.Limit != 64<<20 || len(s.Memory.Raw) == 0 {
			t.Errorf("memory: %+v", s.Memory)
		}
	})
}

func TestOOMIsSeen(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, _ := create(t, c, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(8 << 20))}})
		if m.Path("memory") == "" {
			t.Skip("no memory controller")
		}
		events, err := m.OOMEvents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hog := exec.Command("sh", "-c", "read go; exec tail /dev/zero")
		in, err := hog.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		if err := m.Join(hog.Process.Pid, 0); err != nil {
			t.Error(err)
		}
		// No swap for it, where the host has some.
		_ = writeIfThere(m.Path("memory"), "memory.swap.max", "0")
		fmt.Fprintln(in, "go")
		in.Close()
		hog.Wait()
		select {
		case <-events:
		case <-time.After(60 * time.Second):
			t.Error("no event")
		}
		if n, err := m.OOMKills(); err != nil || n == 0 {
			t.Errorf("kills: %d, %v", n, err)
		}
	})
}

func TestAFailedCreateLeavesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	c := Config{ID: "slipway-failed", Path: fmt.Sprintf("/slipway-test/failed-%d", os.Getpid())}
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = m.Create(0, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "nine"}})
	if err == nil || !strings.Contains(err.Error(), `write "nine" to `) || !strings.Contains(err.Error(), "cpuset.cpus") {
		t.Errorf("got %v", err)
	}
	if m.Exists() {
		t.Error("the group is left")
	}
	for _, dir := range m.Paths() {
		unix.Rmdir(filepath.Dir(dir))
	}
}

func TestDeleteRemovesGroupsBelow(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, _ := create(t, c, nil)
		for _, dir := range m.Paths() {
			if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestCloneIntoGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	m, err := New(Config{ID: "slipway-clone", Path: fmt.Sprintf("/slipway-clone-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Paths()[""]; !ok {
		if _, err := m.Dir(); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		t.Skip("no cgroup version 2")
	}
	if err := m.Create(0, nil); err != nil {
		t.Fatal(err)
	}
	defer m.Delete()
	dir, err := m.Dir()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("cat", "/proc/self/cgroup")
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "slipway-clone") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestUnified(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if !m.V2() {
			t.Skip("cgroup version 1")
		}
		m, _ = create(t, c, &specs.LinuxResources{Unified: map[string]string{"memory.high": "50000000", "pids.max": "77", "cpu.max": "20000 100000"}})
		knob{v2: "pids.max", want2: "77"}.check(t, m)
		knob{v2: "cpu.max", want2: "20000 100000"}.check(t, m)
		for key, want := range map[string]string{"../evil": "file name", "nodot": "CONTROLLER.PARAMETER", "quantum.max": `controller "quantum" not available`} {
			err := m.Set(&specs.LinuxResources{Unified: map[string]string{key: "1"}})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v", key, err)
			}
		}
	})
}

func TestCheckBeforeUpdate(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, _ := create(t, c, nil)
		user := exec.Command("sh", "-c", "read go; x=$(head -c 1000000 /dev/zero | tr '\\0' x); echo; read end")
		in, _ := user.StdinPipe()
		out, _ := user.StdoutPipe()
		if err := user.Start(); err != nil {
			t.Fatal(err)
		}
		defer user.Wait()
		defer in.Close()
		if err := m.Join(user.Process.Pid, 0); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in)
		out.Read(make([]byte, 1))
		err := m.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(4096)), CheckBeforeUpdate: ptr(true)}})
		if m.V2() && (err == nil || !strings.Contains(err.Error(), "below usage")) {
			t.Errorf("got %v", err)
		}
	})
}

func TestJoinBesideAnInit(t *testing.T) {
	drivers(t, func(t *testing.T, c Config) {
		m, cmd := create(t, c, nil)
		if !m.V2() {
			t.Skip("cgroup version 1")
		}
		sub := m.Path("") + "/init.scope"
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := m.JoinSub(cmd.Process.Pid, map[string]string{"": "init.scope"}); err != nil {
			t.Fatal(err)
		}
		if err := write(m.Path(""), "cgroup.subtree_control", "+memory"); err != nil {
			t.Fatal(err)
		}
		other := sleeper(t)
		if err := m.Join(other.Process.Pid, cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if got, err := m.besides(other.Process.Pid); got != sub {
			t.Errorf("got %s, %v, want %s", got, err, sub)
		}
	})
}

func TestWithoutPermissionAProcessStaysInItsGroup(t *testing.T) {
	own := t.TempDir()
	m := &Manager{rootless: true, implied: true, dirs: map[string]string{
		unified: filepath.Join(own, "unified", "id"), "pids": filepath.Join(own, "id"),
	}}
	// Nothing is there to write to, which a plain user may not tell from what
	// belongs to root.
	if err := m.Join(os.Getpid(), 0); err != nil {
		t.Fatal(err)
	}
	if got := m.Paths(); len(got) != 0 {
		t.Errorf("the container claims %v", got)
	}
	if got := m.Shown(); len(got) != 1 || got["pids"] != own {
		t.Errorf("the container sees %v, want %s for pids", got, own)
	}
}
