// SPDX-License-Identifier: Apache-2.0

// Package peers runs the commands of containerd 2.3.4, and of Debian's older
// release, against ours, and ours against theirs.
package peers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// debian is the directory of the commands of Debian's containerd package.
func debian() string { return filepath.Join(host.Root(), ".cache", "debian", "usr", "bin") }

// clients are the ctr commands that have to work, by directory.
func clients() map[string]string {
	return map[string]string{"upstream": host.Peers(), "debian": debian(), "ours": host.Bin()}
}

func pushed(t *testing.T) string {
	t.Helper()
	return host.StartRegistry(t).Push(t, host.Busybox(t), "library/busybox:latest")
}

// ctr runs dir's ctr against d; the command must succeed.
func ctr(t *testing.T, dir string, d *host.Daemon, args ...string) string {
	t.Helper()
	r := host.Exec(t, nil, "", filepath.Join(dir, "ctr"), append([]string{"-a", d.Address}, args...)...)
	if r.Code != 0 {
		t.Fatalf("ctr %s: exit code %d\n%s%s\n%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr, d.Tail())
	}
	return r.Stdout
}

// tutorial runs the commands of containerd's tutorials by the ctr in dir.
func tutorial(t *testing.T, dir string, d *host.Daemon, ref string) {
	t.Helper()
	do := func(args ...string) string { t.Helper(); return ctr(t, dir, d, args...) }
	do("version")
	do("images", "pull", "--plain-http", ref)
	if out := do("i", "ls"); !strings.Contains(out, ref) {
		t.Errorf("images: %q", out)
	}
	do("i", "tag", ref, "busybox:latest")
	do("i", "rm", ref)
	do("run", "-d", "busybox:latest", "busybox")
	if out := do("c", "ls"); !strings.Contains(out, "busybox:latest") {
		t.Errorf("containers: %q", out)
	}
	if out := do("t", "ls"); !strings.Contains(out, "RUNNING") {
		t.Errorf("tasks: %q", out)
	}
	if out := do("t", "exec", "--exec-id", "1860", "busybox", "ls"); !strings.Contains(out, "bin\n") {
		t.Errorf("exec printed %q", out)
	}
	if out := do("t", "ps", "busybox"); !strings.Contains(out, "PID") {
		t.Errorf("processes: %q", out)
	}
	do("t", "metrics", "busybox")
	do("t", "pause", "busybox")
	do("t", "resume", "busybox")
	do("t", "kill", "-s", "SIGKILL", "busybox")
	host.Until(t, "the task is stopped", func() bool { return strings.Contains(do("t", "ls"), "STOPPED") })
	do("t", "rm", "busybox")
	do("c", "rm", "busybox")
	if out := do("run", "--rm", "busybox:latest", "hello", "echo", "hi"); out != "hi\n" {
		t.Errorf("run printed %q", out)
	}
	archive := filepath.Join(host.TempDir(t), "busybox.tar")
	do("i", "export", archive, "busybox:latest")
	do("i", "rm", "--sync", "busybox:latest")
	do("i", "import", archive)
	host.Must(t, "skopeo", "inspect", "--raw", "oci-archive:"+archive)
}

func TestEveryClientRunsTheTutorialAgainstOurs(t *testing.T) {
	for name, dir := range clients() {
		t.Run(name, func(t *testing.T) {
			host.Need(t, filepath.Join(dir, "ctr"))
			tutorial(t, dir, host.Start(t, host.Options{}), pushed(t))
		})
	}
}

func TestOurClientRunsTheTutorialAgainstUpstream(t *testing.T) {
	host.NeedBuilt(t)
	host.Need(t, filepath.Join(host.Peers(), "containerd"))
	tutorial(t, host.Bin(), host.Start(t, host.Options{Bin: host.Peers()}), pushed(t))
}

// mixed is a directory of commands of which some are ours and some upstream's.
func mixed(t *testing.T, daemon, shim string) string {
	t.Helper()
	dir := host.TempDir(t)
	for name, from := range map[string]string{"containerd": daemon, "containerd-shim-runc-v2": shim, "ctr": host.Bin()} {
		host.Need(t, filepath.Join(from, name))
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestShimsAreExchangeable(t *testing.T) {
	host.NeedBuilt(t)
	for name, dirs := range map[string][2]string{
		"upstream's shim under ours": {host.Bin(), host.Peers()},
		"our shim under upstream's":  {host.Peers(), host.Bin()},
	} {
		t.Run(name, func(t *testing.T) {
			tutorial(t, host.Bin(), host.Start(t, host.Options{Bin: mixed(t, dirs[0], dirs[1])}), pushed(t))
		})
	}
}

func TestEitherOpensTheRootOfTheOther(t *testing.T) {
	host.NeedBuilt(t)
	host.Need(t, filepath.Join(host.Peers(), "containerd"))
	for name, order := range map[string][2]string{
		"ours first":     {host.Bin(), host.Peers()},
		"upstream first": {host.Peers(), host.Bin()},
	} {
		t.Run(name, func(t *testing.T) {
			dir, ref := host.TempDir(t), pushed(t)
			first := host.Start(t, host.Options{Bin: order[0], Dir: dir})
			first.Ctr(t, "i", "pull", "--plain-http", ref)
			first.Ctr(t, "run", "-d", ref, "runs")
			first.Ctr(t, "c", "create", ref, "waits", "echo", "well")
			first.Stop(t)

			second := host.Start(t, host.Options{Bin: order[1], Dir: dir})
			if out := second.Ctr(t, "i", "ls", "-q"); strings.TrimSpace(out) != ref {
				t.Errorf("images: %q", out)
			}
			if out := second.Ctr(t, "t", "ls"); !strings.Contains(out, "RUNNING") {
				t.Errorf("tasks: %q", out)
			}
			if out := second.Ctr(t, "t", "exec", "--exec-id", "e", "runs", "echo", "in"); out != "in\n" {
				t.Errorf("exec printed %q", out)
			}
			if out := second.Ctr(t, "t", "start", "waits"); out != "well\n" {
				t.Errorf("start printed %q", out)
			}
			if out := second.Ctr(t, "run", "--rm", ref, "new", "echo", "new"); out != "new\n" {
				t.Errorf("run printed %q", out)
			}
			second.Ctr(t, "t", "rm", "-f", "runs")
			second.Stop(t)
			first.Run(t)
			if out := first.Ctr(t, "t", "ls", "-q"); strings.Contains(out, "runs") {
				t.Errorf("tasks: %q", out)
			}
		})
	}
}

func TestSkopeoReadsWhatWePush(t *testing.T) {
	d, r := host.Start(t, host.Options{}), host.StartRegistry(t)
	ref := r.Push(t, host.Busybox(t), "library/busybox:latest")
	d.Ctr(t, "i", "pull", "--plain-http", ref)
	copied := r.Host + "/copies/busybox:1"
	d.Ctr(t, "i", "tag", ref, copied)
	d.Ctr(t, "i", "push", "--plain-http", copied)
	was := host.Must(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+ref)
	is := host.Must(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+copied)
	if was != is {
		t.Errorf("the manifest was\n%s\nis\n%s", was, is)
	}
}
