// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/version"
)

// invoke runs a command line and returns its output and status.
func invoke(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{stdin: os.Stdin, stdout: &out, stderr: &errs, args0: "runc"}
	status = a.main(args)
	return out.String(), errs.String(), status
}

// The golden files are what runc 1.5.1 wrote.
func TestSpecIsThatOfThePeer(t *testing.T) {
	for file, args := range map[string][]string{"spec.json": nil, "spec-rootless.json": {"--rootless"}} {
		dir := t.TempDir()
		if _, stderr, status := invoke(t, append([]string{"spec", "-b", dir}, args...)...); status != 0 {
			t.Fatal(stderr)
		}
		got := normal(t, filepath.Join(dir, "config.json"))
		if want := normal(t, filepath.Join("testdata", file)); got != want {
			t.Errorf("%v: got\n%s\nwant\n%s", args, got, want)
		}
		if _, stderr, status := invoke(t, "spec", "-b", dir); status != 1 || !strings.Contains(stderr, "config.json exists") {
			t.Errorf("twice: %d, %s", status, stderr)
		}
	}
}

// normal takes out what depends on the host: the user, and the namespace of
// version 2.
func normal(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(text, s); err != nil {
		t.Fatal(err)
	}
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	for _, ids := range [][]specs.LinuxIDMapping{s.Linux.UIDMappings, s.Linux.GIDMappings} {
		for i := range ids {
			ids[i].HostID = 0
		}
	}
	out, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestVersion(t *testing.T) {
	out, _, status := invoke(t, "--version")
	if status != 0 || !regexp.MustCompile(`^runc version 1\.5\.1\nspec: 1\.3\.0\ngo: go\S+\n$`).MatchString(out) {
		t.Errorf("%d, %q", status, out)
	}
	defer func(old string) { version.Revision = old }(version.Revision)
	version.Revision = "abc.m"
	out, _, status = invoke(t, "--version")
	if status != 0 || !regexp.MustCompile(`^runc version 1\.5\.1\ncommit: abc\.m\nspec: `).MatchString(out) {
		t.Errorf("with a revision: %d, %q", status, out)
	}
}

func TestErrorsKeepTheKernelsWords(t *testing.T) {
	for want, err := range map[string]error{
		"no such thing":              fmt.Errorf("no such thing: %w", errdefs.ErrNotFound),
		"init: mount: not found":     errors.New("init: mount: not found"),
		"init: at: invalid argument": errors.New("init: at: invalid argument"),
		"write: invalid argument":    fmt.Errorf("write: %w", unix.EINVAL),
	} {
		if got := withoutKind(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		args   string
		status int
		stderr string
	}{
		{"state", 1, `"state" requires exactly 1 argument(s)`},
		{"kill", 1, `"kill" requires a minimum of 1 argument(s)`},
		{"kill a b c", 1, `"kill" requires a maximum of 2 argument(s)`},
		{"state --foo a", 1, "flag provided but not defined: -foo"},
		{"--bar state a", 1, "flag provided but not defined: -bar"},
		{"--log-format xml list", 1, "invalid log-format: xml"},
		{"--root / list", 1, "should not be set to /"},
		{"list --format yaml", 1, "invalid format option"},
		{"dance", 3, ""},
		{"--root " + root + " state nobody", 1, "container does not exist"},
		{"--root " + root + " exec nobody true", 255, "exec failed: "},
		{"--root " + root + "/missing list", 1, "no such file"},
		{"--root " + root + " delete --force nobody", 0, ""},
		{"--root " + root + " create -b " + root + " c", 1, "JSON specification file config.json not found"},
	} {
		_, stderr, status := invoke(t, strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(strings.ReplaceAll(stderr, `\"`, `"`), c.stderr) {
			t.Errorf("%s: %d, %s", c.args, status, stderr)
		}
	}
}

func TestHelpNamesEveryCommandAndFlag(t *testing.T) {
	out, _, status := invoke(t, "--help")
	if status != 0 {
		t.Error(status)
	}
	for _, c := range allCommands() {
		if !strings.Contains(out, "\n   "+c.name+" ") {
			t.Errorf("no %s in\n%s", c.name, out)
		}
		text, _, _ := invoke(t, c.name, "--help")
		if !strings.Contains(text, "runc "+c.name) {
			t.Errorf("%s: %s", c.name, text)
		}
	}
	run, _, _ := invoke(t, "help", "run")
	for _, flag := range []string{"--bundle value, -b value", "--detach, -d", "--keep", "--preserve-fds value"} {
		if !strings.Contains(run, flag) {
			t.Errorf("no %s in\n%s", flag, run)
		}
	}
}

func TestFlagsMayFollowArguments(t *testing.T) {
	f := newFlags("x")
	var detach bool
	var bundle string
	f.BoolVar(&detach, "detach, d", false, "")
	f.StringVar(&bundle, "bundle, b", "", "")
	rest, err := f.parse([]string{"c1", "-d", "--bundle=/b", "more"}, true)
	if err != nil || !slices.Equal(rest, []string{"c1", "more"}) || !detach || bundle != "/b" {
		t.Errorf("%v, %v, %v, %q", rest, err, detach, bundle)
	}
	rest, err = f.parse([]string{"-b", "x", "c1", "ls", "-d"}, false)
	if err != nil || !slices.Equal(rest, []string{"c1", "ls", "-d"}) {
		t.Errorf("%v, %v", rest, err)
	}
	rest, err = f.parse([]string{"c1", "--", "-d"}, true)
	if err != nil || !slices.Equal(rest, []string{"c1", "-d"}) {
		t.Errorf("%v, %v", rest, err)
	}
}

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{
		"json": `^\{"level":"error","msg":"it \\"broke\\"","time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)"\}\n$`,
		"text": `^time="[^"]+" level=error msg="it \\"broke\\""\n$`,
	} {
		var b bytes.Buffer
		log := slog.New(newHandler(&b, format, false))
		log.Debug("nothing")
		log.Error(`it "broke"`)
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("%s: got %s", format, b.String())
		}
	}
}

func TestErrorsGoToTheLogFileToo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	_, stderr, status := invoke(t, "--log", file, "--log-format", "json", "--root", t.TempDir(), "state", "nobody")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ Level, Msg string }
	if err := json.Unmarshal(text, &line); err != nil || line.Level != "error" || line.Msg+"\n" != stderr || status != 1 {
		t.Errorf("%v, %+v, %q, %d", err, line, stderr, status)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "-1": -1, "32": 32, "32b": 32, "32k": 32 << 10, "32KB": 32 << 10, "32kib": 32 << 10, "1.5m": 3 << 19, "2G": 2 << 30, "1 t": 1 << 40,
		"": -2, "x": -2, "32q": -2, "32kk": -2, "1kibb": -2, "--1": -2,
	} {
		got, err := parseSize(text)
		if err != nil {
			got = -2
		}
		if got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

func TestSignals(t *testing.T) {
	for text, want := range map[string]unix.Signal{"9": 9, "KILL": unix.SIGKILL, "sigterm": unix.SIGTERM, "SIGRTMIN": 0, "": 0, "dance": 0} {
		if got, err := parseSignal(text); got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestSubgroups(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"": nil, "a/b": {"": "a/b"}, "cpu,memory:x pids:y": {"cpu": "x", "memory": "x", "pids": "y"},
	} {
		got, err := subgroups(strings.Fields(text))
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"a b", ":x", "cpu:a cpu:b", "cpu,:x"} {
		if got, err := subgroups(strings.Fields(text)); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestProcessTable(t *testing.T) {
	var b bytes.Buffer
	table := "UID  PID CMD\nroot 1 init\nroot 22 sh -c 1\nroot 3 x\n"
	if err := filterProcesses(&b, table, []int{22, 3}); err != nil || b.String() != "UID  PID CMD\nroot 22 sh -c 1\nroot 3 x\n" {
		t.Errorf("%v, %q", err, b.String())
	}
	if err := filterProcesses(&b, "UID CMD\n", nil); err == nil {
		t.Error("no error")
	}
}

func TestUpdateFlags(t *testing.T) {
	f := newFlags("update")
	c := &change{}
	*c = change{values: map[string]*string{}, pidsGiven: func() bool { return true }, pidsLimit: -1, blkioWeight: 300}
	for _, u := range updateFlags {
		c.values[u[0]] = new(string)
		f.StringVar(c.values[u[0]], u[0], "", u[1])
	}
	if err := f.Parse([]string{"--memory", "64M", "--memory-swap=-1", "--cpu-quota", "-1", "--cpuset-cpus", "0-1", "--cpu-burst", "0"}); err != nil {
		t.Fatal(err)
	}
	r, err := c.resources(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(r)
	want := `{"memory":{"limit":67108864,"swap":-1},"cpu":{"quota":-1,"burst":0,"cpus":"0-1"},"pids":{"limit":-1},"blockIO":{"weight":300}}`
	if string(got) != want {
		t.Errorf("got %s", got)
	}
	*c.values["cpu-share"] = "many"
	if _, err := c.resources(nil); err == nil || !strings.Contains(err.Error(), "invalid value for cpu-share") {
		t.Errorf("got %v", err)
	}
}

func TestCheckProcess(t *testing.T) {
	for _, p := range []*specs.Process{nil, {}, {Cwd: "x", Args: []string{"a"}}, {Cwd: "/"}} {
		if checkProcess(p) == nil {
			t.Errorf("%+v passes", p)
		}
	}
	if errors.Is(checkProcess(&specs.Process{Cwd: "/", Args: []string{"a"}}), os.ErrInvalid) {
		t.Error("a good one does not pass")
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("64M")
	f.Fuzz(func(t *testing.T, text string) { _, _ = parseSize(text) })
}
