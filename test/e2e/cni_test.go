// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"slipway/test/host"
)

const (
	cniPlugins = "/usr/lib/cni"
	subnet     = "10.98.0"
)

// A wire is a network namespace in which the daemon and ctr run, with one CNI
// network configured.
type wire struct {
	*host.Daemon
	ref   string
	netns string // the file of the namespace
	dir   string
}

// cabled starts a daemon in a network namespace of its own. The plugins that
// fail makes are found before the real ones.
func cabled(t *testing.T) *wire {
	host.Need(t, "iptables")
	for _, plugin := range []string{"bridge", "host-local", "portmap", "loopback"} {
		host.Need(t, filepath.Join(cniPlugins, plugin))
	}
	w := &wire{dir: host.TempDir(t), netns: host.NetNS(t)}
	w.configure(t)
	w.Daemon = host.Start(t, host.Options{Wrap: []string{
		"nsenter", "--net=" + w.netns, "env", "NETCONFPATH=" + filepath.Join(w.dir, "net.d"), "CNI_PATH=" + w.faulty() + ":" + cniPlugins,
	}})
	archive := filepath.Join(w.dir, "image.tar")
	host.Must(t, "tar", "-C", host.Busybox(t), "-cf", archive, ".")
	w.Ctr(t, "i", "import", "--index-name", "busybox:latest", archive)
	w.ref = "busybox:latest"
	return w
}

func (w *wire) faulty() string { return filepath.Join(w.dir, "faulty") }

func (w *wire) configure(t *testing.T) {
	t.Helper()
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "e2e", "plugins": [
	{"type": "bridge", "bridge": "slipway0", "isGateway": true, "ipMasq": false,
	 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "%s.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
	 "dns": {"nameservers": ["%[2]s.1"], "search": ["example.test"]}},
	{"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}`, filepath.Join(w.dir, "leases"), subnet)
	for _, dir := range []string{"net.d", "faulty"} {
		if err := os.MkdirAll(filepath.Join(w.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.dir, "net.d", "10-e2e.conflist"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fail makes the next calls of a plugin with the command fail, times times.
func (w *wire) fail(t *testing.T, plugin, command string, times int) {
	t.Helper()
	count := filepath.Join(w.dir, plugin+"."+command)
	script := fmt.Sprintf(`#!/bin/sh
n=$(cat %[1]s/%[2]s.$CNI_COMMAND 2>/dev/null || echo 0)
if [ "$n" -gt 0 ]; then
	echo $((n - 1)) >%[1]s/%[2]s.$CNI_COMMAND
	echo '{"cniVersion": "1.0.0", "code": 100, "msg": "asked to fail"}'
	exit 1
fi
exec %[3]s/%[2]s
`, w.dir, plugin, cniPlugins)
	if err := os.WriteFile(filepath.Join(w.faulty(), plugin), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(count, []byte(strconv.Itoa(times)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// taken are the addresses that are given out, and the interfaces and rules of
// the packet filter that belong to a container.
func (w *wire) taken(t *testing.T) (all []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "leases", "e2e", "10.*"))
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, files...)
	for _, line := range strings.Split(w.inside(t, "ip -o link; iptables -t nat -S"), "\n") {
		if strings.Contains(line, "veth") || strings.Contains(line, "-N CNI-DN-") {
			all = append(all, line)
		}
	}
	return all
}

// inside runs a command in the daemon's network.
func (w *wire) inside(t *testing.T, command string) string {
	t.Helper()
	return host.Must(t, "nsenter", "--net="+w.netns, "sh", "-c", command)
}

// free requires that nothing is taken, but for what the kernel is still taking
// down with a network namespace.
func (w *wire) free(t *testing.T, after string) {
	t.Helper()
	var left []string
	defer func() {
		if t.Failed() {
			t.Logf("still taken: %q", left)
		}
	}()
	host.Until(t, "nothing is taken after "+after, func() bool {
		left = w.taken(t)
		return len(left) == 0
	})
}

// end stops a container that runs and waits until it has.
func (w *wire) end(t *testing.T, id string) {
	t.Helper()
	w.Ctr(t, "t", "kill", "-s", "KILL", id)
	host.Until(t, "the task is stopped", func() bool { return status(t, w.Daemon, id) == "STOPPED" })
}

func TestNetworkGivesAddressRouteNamesAndPort(t *testing.T) {
	w := cabled(t)
	r := w.Try(t, "run", "--rm", "--cni", w.ref, "one", "sh", "-c", "ip -o -4 addr show eth0; ip route; cat /etc/resolv.conf")
	for _, want := range []string{"inet " + subnet + ".2/24", "default via " + subnet + ".1", "nameserver " + subnet + ".1\nsearch example.test\n"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("no %q in %q, stderr %q", want, r.Stdout, r.Stderr)
		}
	}
	w.free(t, "run --rm")
	w.Ctr(t, "run", "-d", "--cni", "--publish", "18080:80", w.ref, "web", "sh", "-c", "mkdir /www; echo hello >/www/page; exec httpd -f -h /www")
	if info := w.Ctr(t, "c", "info", "web"); !strings.Contains(info, `"ctr.cni-containerd.metadata"`) {
		t.Errorf("the network is not recorded: %s", info)
	}
	address := host.Must(t, "sh", "-c", "ls "+filepath.Join(w.dir, "leases", "e2e")+" | grep ^10")
	for _, at := range []string{strings.TrimSpace(address) + ":80", subnet + ".1:18080"} {
		host.Until(t, at+" answers", func() bool {
			return strings.Contains(w.inside(t, "busybox wget -q -O - http://"+at+"/page || true"), "hello")
		})
	}
	w.end(t, "web")
	w.free(t, "kill")
	w.Ctr(t, "c", "rm", "web")
	empty(t, w.Daemon)
}

func TestNetworkIsRemovedHoweverAContainerEnds(t *testing.T) {
	w := cabled(t)
	w.Ctr(t, "run", "-d", "--cni", w.ref, "deleted", "sleep", "10000")
	w.Ctr(t, "t", "rm", "-f", "deleted")
	w.free(t, "tasks rm")
	w.Ctr(t, "c", "rm", "deleted")

	w.Ctr(t, "run", "-d", "--cni", w.ref, "removed", "true")
	host.Until(t, "the task is stopped", func() bool { return status(t, w.Daemon, "removed") == "STOPPED" })
	w.Ctr(t, "c", "rm", "removed")
	w.free(t, "containers rm")

	w.fail(t, "portmap", "ADD", 1)
	fails(t, w.Daemon, 1, "asked to fail", "run", "-d", "--cni", w.ref, "unlucky", "sleep", "10000")
	w.free(t, "a run whose plugin failed")
	if s := status(t, w.Daemon, "unlucky"); s != "" {
		t.Errorf("the task of a run that failed is %s", s)
	}
	w.Ctr(t, "c", "rm", "unlucky")
	empty(t, w.Daemon)
}

func TestNetworkLeaksNoAddressWhenPluginsFail(t *testing.T) {
	cycles := 20
	if n, err := strconv.Atoi(os.Getenv("SLIPWAY_CNI_CYCLES")); err == nil {
		cycles = n
	}
	w := cabled(t)
	faults := []struct{ plugin, command string }{{"bridge", "ADD"}, {"bridge", "DEL"}, {"portmap", "ADD"}, {"portmap", "DEL"}, {"host-local", "DEL"}, {"host-local", "ADD"}}
	for i := range cycles {
		f := faults[i%len(faults)]
		w.fail(t, f.plugin, f.command, 1)
		id := host.Unique("cycle")
		r := w.Try(t, "run", "-d", "--cni", "--publish", "18081:80", w.ref, id, "sleep", "10000")
		if (r.Code == 0) != (f.command == "DEL") {
			t.Fatalf("cycle %d, %s fails at %s: exit code %d: %s", i, f.plugin, f.command, r.Code, r.Stderr)
		}
		if r.Code == 0 {
			w.Ctr(t, "t", "rm", "-f", id)
		}
		w.Ctr(t, "c", "rm", id)
		for _, network := range []string{"cni-loopback-default-" + id + "-lo", "e2e-default-" + id + "-eth0"} {
			if _, err := os.Stat(filepath.Join("/var/lib/cni/results", network)); err == nil {
				t.Errorf("cycle %d: the plugins' result stays: %s", i, network)
			}
		}
		w.free(t, fmt.Sprintf("cycle %d, in which %s failed at %s", i, f.plugin, f.command))
	}
	empty(t, w.Daemon)
}
