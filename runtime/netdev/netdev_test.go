// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

// namespace starts a process in a network namespace of its own.
func namespace(t *testing.T) (*os.File, int) {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Skipf("network namespaces: %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, cmd.Process.Pid
}

func TestADeviceMovesWithItsAddresses(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and ip(8)")
	}
	a, b := fmt.Sprintf("swa%d", os.Getpid()%100000), fmt.Sprintf("swb%d", os.Getpid()%100000)
	if out, err := exec.Command("ip", "link", "add", a, "type", "veth", "peer", "name", b).CombinedOutput(); err != nil {
		t.Skipf("no veth: %s", out)
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", b).Run() }) // gone when the namespace has gone first
	ip(t, "addr", "add", "192.0.2.7/24", "broadcast", "192.0.2.255", "dev", a)
	ip(t, "addr", "add", "2001:db8::7/64", "dev", a, "nodad")
	ip(t, "link", "set", a, "up")
	ns, pid := namespace(t)
	if err := Move(map[string]specs.LinuxNetDevice{a: {Name: "inner0"}}, ns); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(pid), "-n", "ip", "addr", "show", "inner0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"192.0.2.7/24", "brd 192.0.2.255", "2001:db8::7/64", ",UP"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	if err := Move(map[string]specs.LinuxNetDevice{a: {}}, ns); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), a) {
		t.Errorf("again: %v", err)
	}
	if err := Move(map[string]specs.LinuxNetDevice{b: {Name: "inner0"}}, ns); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a name that is taken: %v", err)
	}
}

func TestCheck(t *testing.T) {
	good := map[string]specs.LinuxNetDevice{"eth0": {}, "eth1": {Name: "e-1.2"}}
	if err := Check(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []map[string]specs.LinuxNetDevice{
		{"": {}}, {"a/b": {}}, {"eth0": {Name: "a b"}}, {"eth0": {Name: ".."}}, {"eth0": {Name: "a:1"}}, {"sixteen-letters-": {}},
	} {
		if err := Check(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		messages, _, _ := parse(data, 1)
		for _, m := range messages {
			_, _ = keep(m.data)
		}
	})
}
