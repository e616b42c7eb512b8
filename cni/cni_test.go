// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const plugins = "/usr/lib/cni"

// network is a configuration of a bridge whose addresses are kept in dir.
func network(dir string) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "test", "plugins": [
		{"type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": false,
		 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.99.0.0/28"}]], "routes": [{"dst": "0.0.0.0/0"}]},
		 "dns": {"nameservers": ["10.99.0.1"], "search": ["example.test"]}}]}`, dir)
}

// world runs do on a thread with a network namespace of its own, which stands
// for the host's, and with the file of another, which is the container's.
func world(t *testing.T, do func(t *testing.T, netns string)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Skip("needs the plugins of containernetworking-plugins: run make setup")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is not unlocked, so it ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		holder := exec.Command("unshare", "-n", "sleep", "1000")
		if err := holder.Start(); err != nil {
			t.Error(err)
			return
		}
		defer func() { holder.Process.Kill(); holder.Wait() }()
		netns := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
		for own, _ := os.Readlink("/proc/thread-self/ns/net"); ; {
			if its, _ := os.Readlink(netns); its != own && its != "" {
				break
			}
			runtime.Gosched()
		}
		do(t, netns)
	}()
	<-done
}

func load(t *testing.T, config string, bins ...string) (*Networks, string) {
	t.Helper()
	dir := t.TempDir()
	conf, leases := filepath.Join(dir, "net.d"), filepath.Join(dir, "leases")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if config == "" {
		config = network(leases)
	}
	if err := os.WriteFile(filepath.Join(conf, "10-test.conflist"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	n, err := Load(Config{ConfDir: conf, BinDirs: append(bins, plugins), CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	return n, leases
}

// leased lists the addresses that are taken.
func leased(t *testing.T, dir string) (taken []string) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "test", "10.*"))
	for _, f := range files {
		taken = append(taken, filepath.Base(f))
	}
	return taken
}

func inside(t *testing.T, netns, command string) string {
	t.Helper()
	out, err := exec.Command("nsenter", "--net="+netns, "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

func TestSetupGivesAddressRouteAndNames(t *testing.T) {
	world(t, func(t *testing.T, netns string) {
		n, leases := load(t, "")
		r, err := n.Setup(context.Background(), "c1", netns, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if len(r.IPs) != 1 || r.IPs[0].String() != "10.99.0.2/28" {
			t.Errorf("addresses %v", r.IPs)
		}
		if got := r.ResolvConf(); got != "nameserver 10.99.0.1\nsearch example.test\n" {
			t.Errorf("resolv.conf %q", got)
		}
		if out := inside(t, netns, "cat /proc/net/dev /proc/net/route"); !strings.Contains(out, "eth0:") || !strings.Contains(out, "eth0\t00000000") {
			t.Errorf("inside: %s", out)
		}
		if err := n.Remove(context.Background(), "c1", netns, nil); err != nil {
			t.Error(err)
		}
		if taken := leased(t, leases); len(taken) != 0 {
			t.Errorf("addresses are still taken: %v", taken)
		}
		if out := inside(t, netns, "cat /proc/net/dev"); strings.Contains(out, "eth0:") {
			t.Errorf("inside: %s", out)
		}
	})
}

// failing is a directory with a plugin that fails as often as the file count
// in it says, and otherwise is the real one.
func failing(t *testing.T, plugin, command string, times int) string {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
n=$(cat %[1]s/count)
if [ "$CNI_COMMAND" = %[2]s ] && [ "$n" -gt 0 ]; then
	echo $((n - 1)) >%[1]s/count
	echo '{"cniVersion": "1.0.0", "code": 100, "msg": "asked to fail"}'
	exit 1
fi
exec %[3]s/%[4]s
`, dir, command, plugins, plugin)
	if err := os.WriteFile(filepath.Join(dir, plugin), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "count"), []byte(fmt.Sprint(times)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFailuresLeaveNoAddress(t *testing.T) {
	for name, c := range map[string]struct {
		plugin, command string
		times           int
	}{
		"detach fails once":         {"bridge", "DEL", 1},
		"address is not given back": {"host-local", "DEL", 2},
		"attach fails":              {"bridge", "ADD", 1},
	} {
		t.Run(name, func(t *testing.T) {
			world(t, func(t *testing.T, netns string) {
				n, leases := load(t, "", failing(t, c.plugin, c.command, c.times))
				// The subnet has 13 addresses: a leak shows as one that lacks.
				for i := range 20 {
					id := fmt.Sprint("c", i)
					_, err := n.Setup(context.Background(), id, netns, nil)
					if (err != nil) != (c.command == "ADD" && i == 0) {
						t.Errorf("setup %d: %v", i, err)
						return
					}
					if err := n.Remove(context.Background(), id, netns, nil); err != nil {
						t.Errorf("remove %d: %v", i, err)
					}
				}
				if taken := leased(t, leases); len(taken) != 0 {
					t.Errorf("addresses are still taken: %v", taken)
				}
			})
		})
	}
}

func TestRemoveWhenTheNamespaceIsGone(t *testing.T) {
	world(t, func(t *testing.T, netns string) {
		n, leases := load(t, "")
		if _, err := n.Setup(context.Background(), "c1", netns, nil); err != nil {
			t.Error(err)
			return
		}
		if err := n.Remove(context.Background(), "c1", "/proc/0/ns/net", nil); err != nil {
			t.Error(err)
		}
		if taken := leased(t, leases); len(taken) != 0 {
			t.Errorf("addresses are still taken: %v", taken)
		}
	})
}

func TestRemoveOfAContainerThatWasNeverAttached(t *testing.T) {
	world(t, func(t *testing.T, netns string) {
		n, _ := load(t, "")
		if err := n.Remove(context.Background(), "never", netns, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestLoadNamesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(Config{ConfDir: dir}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), dir) {
		t.Errorf("an empty directory: %v", err)
	}
	for text, want := range map[string]string{
		"{":             "10-x.conflist",
		`{"name": "x"}`: "10-x.conflist",
		`{"cniVersion":"1.0.0","name":"x","plugins":[]}`: "no plugins",
	} {
		if err := os.WriteFile(filepath.Join(dir, "10-x.conflist"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(Config{ConfDir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestParsePort(t *testing.T) {
	for s, want := range map[string]Port{
		"8080:80":               {8080, 80, "tcp", ""},
		"53:53/udp":             {53, 53, "udp", ""},
		"127.0.0.1:8080:80/tcp": {8080, 80, "tcp", "127.0.0.1"},
		"[::1]:1:2":             {1, 2, "tcp", "::1"},
	} {
		if got, err := ParsePort(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "80", "0:80", "80:0", "80:65536", "a:b", "1:2/ip", "x:1:2", "-1:2", "+1:2"} {
		if got, err := ParsePort(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}
