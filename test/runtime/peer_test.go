// SPDX-License-Identifier: Apache-2.0

package runtime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A step is one command of a session: ID stands for the container's name. It
// may write another bundle first, or wait for a status afterwards.
type step struct {
	args   string
	stdin  string
	bundle func(*specs.Spec)
	await  string
}

// sessions are run with both commands and must read the same.
var sessions = map[string][]step{
	"life": {
		{args: "create ID", bundle: args("sleep", "300")},
		{args: "state ID"},
		{args: "list"},
		{args: "start ID"},
		{args: "start ID"},
		{args: "list -q"},
		{args: "list --format json"},
		{args: "kill ID KILL", await: "stopped"},
		{args: "state ID"},
		{args: "kill ID"},
		{args: "start ID"},
		{args: "exec ID true"},
		{args: "delete ID"},
		{args: "delete ID"},
		{args: "delete --force ID"},
		{args: "state ID"},
	},
	"exec": {
		{args: "run --detach ID", bundle: args("sleep", "300")},
		{args: "exec ID echo hello"},
		{args: "exec ID sh -c exit${IFS}42"},
		{args: "exec ID sh -c kill${IFS}-9${IFS}$$"},
		{args: "exec -e A=b --cwd /tmp ID sh -c echo${IFS}$A;pwd"},
		{args: "exec -u 1000:1001 ID id -u"},
		{args: "exec -u 1000:1001 ID id -g"},
		{args: "exec -u x ID id"},
		{args: "exec ID"},
		{args: "exec ID cat", stdin: "in and out\n"},
		{args: "exec --cap CAP_NET_ADMIN ID grep ^Cap /proc/self/status"},
		{args: "exec ID grep ^Cap /proc/self/status"},
		{args: "exec --no-new-privs=false ID grep NoNewPrivs /proc/self/status"},
		{args: "exec -d ID true"},
		{args: "delete --force ID"},
	},
	"pause": {
		{args: "run -d ID", bundle: args("sleep", "300")},
		{args: "pause ID"},
		{args: "state ID"},
		{args: "exec ID true"},
		{args: "delete ID"},
		{args: "resume ID"},
		{args: "resume ID"},
		{args: "delete ID"},
		{args: "kill ID DANCE"},
		{args: "delete -f ID"},
	},
	"status of run": {
		{args: "run ID", bundle: sh("echo out; exit 7")},
		{args: "run ID", bundle: sh("echo err >&2")},
		{args: "run ID", bundle: args("cat"), stdin: "piped\n"},
		{args: "run ID", bundle: args("nonexistent")},
		{args: "run ID", bundle: args("/etc")},
		{args: "run --keep ID", bundle: args("true")},
		{args: "list -q"},
		{args: "run ID", bundle: args("true")},
		{args: "delete ID"},
		{args: "run -b nowhere ID"},
		{args: "create ID", bundle: func(s *specs.Spec) { s.Process.Terminal = true }},
	},
	"what a container sees": {
		{args: "run ID", bundle: sh("hostname; id; pwd; env | sort")},
		{args: "run ID", bundle: sh("cat /proc/self/mounts | cut -d' ' -f2-4 | sed 's/,size=[^,]*//; s/,inode.*//' | grep -v -e '^/ ' -e '^/sys/fs/cgroup' -e ^/proc/ | sort")},
		{args: "run ID", bundle: sh("ls -l /dev | sed 's/  */ /g' | cut -d' ' -f1,3-6 | sort")},
		{args: "run ID", bundle: sh("ls /proc/self/fd | wc -l; ulimit -n; umask")},
		{args: "run ID", bundle: sh("echo > /proc/sys/kernel/hostname; echo > /readonly; cat /proc/kcore | wc -c; ls /sys/firmware | wc -l")},
		{args: "run ID", bundle: sh("grep -E 'Seccomp|NoNew|Cap' /proc/self/status")},
		{args: "run ID", bundle: sh("cut -d' ' -f2 /proc/self/mounts | grep ^/proc/ | sort")},
		{args: "run ID", bundle: sh("cat /proc/1/oom_score_adj; cat /proc/self/attr/current 2>/dev/null; echo $?")},
	},
	"update": {
		{args: "run -d ID", bundle: args("sleep", "300")},
		{args: "update --pids-limit 20 --cpu-share 512 ID"},
		{args: "update -r - ID", stdin: `{"pids":{"limit":30},"memory":{"limit":67108864}}`},
		{args: "update --memory many ID"},
		{args: "update --cpu-quota x ID"},
		{args: "delete -f ID"},
	},
	"update of Intel RDT": {
		{args: "run -d ID", bundle: args("sleep", "300")},
		{args: "update --l3-cache-schema L3:0=f ID"},
		{args: "update --mem-bw-schema MB:0=20 ID"},
		{args: "delete -f ID"},
	},
	"mounts": {
		{args: "run ID", bundle: func(s *specs.Spec) {
			s.Process.Args = []string{"sh", "-c", "stat -c %a /etc /mode /new; grep -c -e ' /etc ' -e ' /tmp ' /proc/self/mounts"}
			for _, at := range []string{"/etc", "/new"} {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs"})
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mode", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1500"}})
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/tmp", "/tmp")
		}},
		{args: "run ID", bundle: func(s *specs.Spec) {
			s.Process.Args = []string{"sh", "-c", "sed -n 's/^[^ ]* \\(.tmp.[a-z]*\\) [^ ]* \\(.*\\),size.*/\\1 \\2/p' /proc/self/mounts"}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp/all", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec"}})
			for name, option := range map[string]string{"bind": "bind", "nodev": "nodev", "dev": "dev", "noatime": "noatime"} {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp/" + name, Source: "/dev/shm", Options: []string{"bind", option}})
			}
			slices.SortFunc(s.Mounts, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
		}},
	},
	"memory policy": {
		{args: "run ID", bundle: func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }},
		{args: "run ID", bundle: func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred, Flags: []specs.MemoryPolicyFlagType{"f"}}
		}},
	},
	"hooks": {
		{args: "run ID", bundle: func(s *specs.Spec) {
			s.Process.Args = []string{"echo", "main"}
			hook := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "grep -o '\"status\":\"[a-z]*\"' >> hooks"}}
			s.Hooks = &specs.Hooks{
				CreateRuntime: []specs.Hook{hook}, Poststop: []specs.Hook{hook},
			}
		}},
	},
	"usage": {
		{args: "state"},
		{args: "kill"},
		{args: "kill a b c"},
		{args: "list --format yaml"},
		{args: "ps --format json nobody"},
		{args: "pause nobody"},
		{args: "--log-format xml list"},
	},
}

// noise are what differs from run to run.
var noise = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`time="[^"]*"`), `time="T"`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "T"},
	{regexp.MustCompile(`("pid": ?)[1-9]\d*`), "${1}N"},
	{regexp.MustCompile(`(?m)^(ID +)\d+ `), "${1}N "},
	{regexp.MustCompile(` {3,}`), "   "},
}

// transcript runs a session and writes down what happened.
func transcript(t *testing.T, command string, session []step, global ...string) string {
	l := newLab(t, command)
	l.global = global
	l.bundle(args("true"))
	var b strings.Builder
	for _, s := range session {
		if s.bundle != nil {
			l.bundle(s.bundle)
		}
		list := strings.Fields(strings.ReplaceAll(s.args, "ID", l.name))
		r := l.feed(s.stdin, list...)
		if s.await != "" {
			l.await(l.name, s.await)
		}
		stdout := r.stdout
		if i := strings.Index(stdout, "Incorrect Usage"); i >= 0 {
			stdout = stdout[:i] + "Incorrect Usage…\n" // the help text is not promised
		}
		fmt.Fprintf(&b, "$ runc %s\n%s%s= %d\n", s.args, stdout, r.stderr, r.status)
	}
	if hooks, err := os.ReadFile(filepath.Join(l.dir, "hooks")); err == nil {
		fmt.Fprintf(&b, "hooks:\n%s", hooks)
	}
	text := strings.NewReplacer(l.dir, "DIR", l.name, "ID", command, "runc").Replace(b.String())
	for _, n := range noise {
		text = n.re.ReplaceAllString(text, n.by)
	}
	return text
}

func TestSessionsReadAsWithThePeer(t *testing.T) {
	if peer == "" {
		t.Skip("needs runc 1.5.1: scripts/setup.sh builds it")
	}
	drivers := map[string][]string{"cgroupfs": nil}
	if exists("/run/systemd/private") {
		drivers["systemd"] = []string{"--systemd-cgroup"}
	}
	for driver, global := range drivers {
		for name, session := range sessions {
			t.Run(driver+"/"+name, func(t *testing.T) {
				got, want := transcript(t, runc, session, global...), transcript(t, peer, session, global...)
				if got != want {
					t.Errorf("got\n%s\nwant\n%s\n%s", got, want, difference(got, want))
				}
			})
		}
	}
}

// difference names the first line that is not the same.
func difference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d:\n got %s\nwant %s", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}
