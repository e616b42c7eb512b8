// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"slipway/test/host"
)

// A nerd is nerdctl on a containerd, both in a network namespace of their own:
// its networks are made by a hook that the shim runs.
type nerd struct {
	program
	netns string
	dir   string
}

func startNerdctl(t *testing.T) *nerd {
	t.Helper()
	const plugins = "/usr/lib/cni"
	command := filepath.Join(host.Peers(), "nerdctl")
	host.Need(t, command, "iptables", filepath.Join(plugins, "bridge"), filepath.Join(plugins, "firewall"), filepath.Join(plugins, "tuning"))
	netns, dir := host.NetNS(t), host.TempDir(t)
	inside := []string{"nsenter", "--net=" + netns}
	d := host.Start(t, host.Options{Wrap: inside})
	config := filepath.Join(dir, "nerdctl.toml")
	n := &nerd{program{t, "nerdctl", append(inside[:2:2], command), []string{"NERDCTL_TOML=" + config, d.Path()}}, netns, dir}
	settings := "address = \"" + d.Address + `"
data_root = "` + filepath.Join(dir, "data") + `"
cni_path = "` + plugins + `"
cni_netconfpath = "` + filepath.Join(dir, "net.d") + `"
cgroup_manager = "cgroupfs"
`
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(n.try("ps", "-aq").Stdout) {
			n.try("rm", "-f", id)
		}
	})
	return n
}

// fetch reads a page from the namespace's own address, until there is one.
func (n *nerd) fetch(url, want string) {
	n.t.Helper()
	host.Until(n.t, url+" is served", func() bool {
		return host.Exec(n.t, nil, "", "nsenter", "--net="+n.netns, "busybox", "wget", "-q", "-O", "-", url).Stdout == want
	})
}

const serve = "mkdir -p /www; echo served >/www/index.html; exec httpd -f -p 80 -h /www"

func TestNerdctl(t *testing.T) {
	n := startNerdctl(t)
	n.do("load", "-i", archive(t))
	if out := n.do("images", "--format", "{{.Repository}}:{{.Tag}}"); !strings.Contains(out, "busybox:latest\n") {
		t.Fatalf("images: %q", out)
	}
	t.Run("run", n.sub((*nerd).run))
	t.Run("life", n.sub((*nerd).life))
	t.Run("restart", n.sub((*nerd).restart))
	t.Run("files", n.sub((*nerd).files))
	t.Run("network", n.sub((*nerd).network))
	t.Run("compose", n.sub((*nerd).compose))
}

// sub runs a part as a test of its own.
func (n *nerd) sub(part func(*nerd)) func(*testing.T) {
	return func(t *testing.T) {
		of := *n
		of.t = t
		part(&of)
	}
}

func (n *nerd) run() {
	n.want("hi\n", "run", "--rm", "--net", "none", "busybox", "echo", "hi")
	if r := n.try("run", "--rm", "--net", "none", "busybox", "sh", "-c", "exit 7"); r.Code != 7 {
		n.t.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	n.want("67108864\n", "run", "--rm", "--net", "none", "--memory", "64m", "busybox", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
	n.want("1000\n", "run", "--rm", "--net", "none", "-u", "1000", "busybox", "id", "-u")
	n.want("inside\n", "run", "--rm", "--net", "none", "--hostname", "inside", "busybox", "hostname")
	n.want("", "ps", "-aq")
}

func (n *nerd) life() {
	n.do("run", "-d", "--name", "up", "--net", "none", "busybox", "sh", "-c", "echo started; trap 'exit 3' TERM; while :; do sleep 0.1; done")
	host.Until(n.t, "the log has the output", func() bool { return n.do("logs", "up") == "started\n" })
	n.want("hi\n", "exec", "up", "echo", "hi")
	if out := n.do("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "up"); !strings.HasPrefix(out, "up ") {
		n.t.Errorf("stats: %q", out)
	}
	if out := n.do("top", "up"); !strings.Contains(out, "trap") {
		n.t.Errorf("top: %q", out)
	}
	n.do("pause", "up")
	n.want("paused\n", "inspect", "-f", "{{.State.Status}}", "up")
	n.do("unpause", "up")
	n.do("update", "--memory", "96m", "up")
	n.do("restart", "-t", "5", "up")
	n.want("running\n", "inspect", "-f", "{{.State.Status}}", "up")
	n.do("rename", "up", "renamed")
	n.do("stop", "-t", "5", "renamed")
	n.want("3\n", "inspect", "-f", "{{.State.ExitCode}}", "renamed")
	n.do("start", "renamed")
	n.do("kill", "renamed")
	n.want("137\n", "wait", "renamed")
	n.do("rm", "renamed")
}

// restart claims that the daemon's monitor starts what ends by itself.
func (n *nerd) restart() {
	n.do("run", "-d", "--name", "always", "--restart", "always", "--net", "none", "busybox", "sleep", "inf")
	pid := func() int {
		p, _ := strconv.Atoi(strings.TrimSpace(n.do("inspect", "-f", "{{.State.Pid}}", "always")))
		return p
	}
	first := pid()
	if first == 0 || syscall.Kill(first, syscall.SIGKILL) != nil {
		n.t.Fatalf("process %d cannot be killed", first)
	}
	host.Until(n.t, "it runs again", func() bool { p := pid(); return p != 0 && p != first })
	n.do("rm", "-f", "always")
}

func (n *nerd) files() {
	n.do("volume", "create", "vol")
	n.do("run", "-d", "--name", "writer", "--net", "none", "-v", "vol:/data", "busybox", "sh", "-c", "echo kept >/data/f; echo changed >/file")
	n.do("wait", "writer")
	n.want("kept\n", "run", "--rm", "--net", "none", "-v", "vol:/data:ro", "busybox", "cat", "/data/f")
	n.do("start", "writer")
	n.do("wait", "writer")
	n.do("run", "-d", "--name", "holder", "--net", "none", "busybox", "sleep", "inf")
	file := filepath.Join(n.dir, "in")
	if err := os.WriteFile(file, []byte("copied\n"), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.do("cp", file, "holder:/copied")
	n.want("copied\n", "exec", "holder", "cat", "/copied")
	n.do("cp", "holder:/copied", filepath.Join(n.dir, "out"))
	if data, err := os.ReadFile(filepath.Join(n.dir, "out")); string(data) != "copied\n" {
		n.t.Errorf("copied out: %q, %v", data, err)
	}
	n.do("commit", "writer", "changed:latest")
	n.want("changed\n", "run", "--rm", "--net", "none", "changed:latest", "cat", "/file")
	n.do("tag", "changed:latest", "again:1")
	n.do("save", "-o", filepath.Join(n.dir, "image.tar"), "again:1")
	n.do("rm", "-f", "writer", "holder")
	n.do("rmi", "-f", "again:1", "changed:latest")
	n.do("load", "-i", filepath.Join(n.dir, "image.tar"))
	n.want("changed\n", "run", "--rm", "--net", "none", "again:1", "cat", "/file")
	n.do("volume", "rm", "vol")
}

func (n *nerd) network() {
	n.do("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", "sh", "-c", serve)
	n.fetch("http://127.0.0.1:8080/", "served\n")
	if out := n.do("port", "web"); !strings.Contains(out, "80/tcp -> 127.0.0.1:8080") {
		n.t.Errorf("port: %q", out)
	}
	n.do("rm", "-f", "web")
	n.do("network", "create", "net1")
	n.do("run", "-d", "--name", "server", "--network", "net1", "busybox", "sh", "-c", serve)
	host.Until(n.t, "one container reaches the other by name", func() bool {
		return n.try("run", "--rm", "--network", "net1", "busybox", "wget", "-q", "-O", "-", "http://server/").Stdout == "served\n"
	})
	n.do("rm", "-f", "server")
	n.do("network", "rm", "net1")
	if out := host.Must(n.t, "nsenter", "--net="+n.netns, "sh", "-c", "ip -o link; iptables -t nat -S"); strings.Contains(out, "veth") || strings.Contains(out, "CNI-DN-") {
		n.t.Errorf("left in the network:\n%s", out)
	}
}

func (n *nerd) compose() {
	file := filepath.Join(n.dir, "compose.yaml")
	spec, err := json.Marshal(map[string]any{"services": map[string]any{
		"web":  map[string]any{"image": "busybox", "command": []string{"sh", "-c", serve}, "ports": []string{"127.0.0.1:8081:80"}},
		"side": map[string]any{"image": "busybox", "command": []string{"sleep", "inf"}, "depends_on": []string{"web"}},
	}})
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(file, spec, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.do("compose", "-p", "proj", "-f", file, "up", "-d")
	n.fetch("http://127.0.0.1:8081/", "served\n")
	n.want("served\n", "compose", "-p", "proj", "-f", file, "exec", "-T", "side", "wget", "-q", "-O", "-", "http://web/")
	n.do("compose", "-p", "proj", "-f", file, "down")
	n.want("", "ps", "-aq")
}
