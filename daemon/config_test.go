// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// load reads a configuration text as a file.
func load(t *testing.T, text string) (*Config, []Note, error) {
	t.Helper()
	noDropIns(t)
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(file)
}

// noDropIns skips a test on a host whose own drop-ins every file imports.
func noDropIns(t *testing.T) {
	t.Helper()
	if files, err := filepath.Glob(DefaultConfig().Imports[0]); len(files) > 0 || err != nil {
		t.Skipf("this host has %v, %v", files, err)
	}
}

// TestFilesAreReadAsUpstreams compares with what upstream's daemon prints of
// the same files: every line of ours must be there, in that order. It has the
// lines of components, too, that we do not have; ours names in extra what it
// has beyond, and has a policy for images.
func TestFilesAreReadAsUpstreams(t *testing.T) {
	noDropIns(t)
	const ours = "  [plugins.'io.containerd.image-verifier.v1.policy']\n    path = '/etc/containerd/policy.toml'\n\n"
	for _, c := range []struct {
		file, golden string
		extra        []string
	}{
		{file: "absent.toml", golden: "default"},
		{file: "v1.toml", golden: "v1"},
		{file: "v2.toml", golden: "v2", extra: []string{"env = ['SCHED_CORE=1']"}}, // upstream's loses sched_core
		{file: "v3.toml", golden: "v3"},
		{file: "imports/main.toml", golden: "imports"},
	} {
		config, _, err := LoadConfig("testdata/" + c.file)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		var b bytes.Buffer
		if err := config.Write(&b); err != nil {
			t.Fatal(err)
		}
		golden, err := os.ReadFile("testdata/" + c.golden + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Split(strings.ReplaceAll(string(golden), "linux/amd64", platform()), "\n")
		for line := range strings.Lines(strings.Replace(b.String(), ours, "", 1)) {
			line = strings.TrimRight(line, "\n")
			if slices.Contains(c.extra, strings.TrimSpace(line)) {
				continue
			}
			i := slices.Index(want, line)
			if i < 0 {
				t.Errorf("%s: upstream does not print %q there", c.file, line)
				continue
			}
			want = want[i+1:]
		}
	}
}

func TestWhatIsWrittenIsReadAgain(t *testing.T) {
	var b, again bytes.Buffer
	if err := DefaultConfig().Write(&b); err != nil {
		t.Fatal(err)
	}
	c, notes, err := load(t, b.String())
	if err != nil || len(notes) != 0 {
		t.Fatalf("%v, %v", notes, err)
	}
	if err := c.Write(&again); err != nil || b.String() != again.String() {
		t.Errorf("%v: read as\n%s", err, again.String())
	}
}

func TestWhatIsInVainIsNoted(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"version = 4\nrooot = '/x'", ":2: unknown key rooot, did you mean root?"},
		{"version = 4\n[plugins.'io.containerd.server.v1.grpc']\n\n  adress = ''", ":4: unknown key plugins.'io.containerd.server.v1.grpc'.adress, did you mean address?"},
		{"version = 4\n[plugins]\n'io.containerd.gc.v1.scheduler' = {pause = 1}", ":3: unknown key plugins.'io.containerd.gc.v1.scheduler'.pause"},
		{"version = 4\n[plugins.'io.containerd.gc.v1.schedular']\nx = 1", ":2: unknown component io.containerd.gc.v1.schedular, did you mean io.containerd.gc.v1.scheduler?"},
		{"version = 4\n[plugins.'io.containerd.grpc.v1.cri']\nx = 1", ":2: no effect: this build has no io.containerd.grpc.v1.cri"},
		{"version = 4\n[plugins.'io.containerd.event.v1.exchange']\nx = 1", ":2: io.containerd.event.v1.exchange has no options"},
		{"version = 4\nroot = '/x'\ndisabled_plugins = ['io.containerd.gc.v1.schedule']", ":3: unknown component io.containerd.gc.v1.schedule, did you mean io.containerd.gc.v1.scheduler?"},
		{"version = 4\ndisabled_plugins = ['io.containerd.grpc.v1.cri']", ""},
		{"version = 4\n[debug]\nlog_trace_id = true", ":3: no effect: debug.log_trace_id: this build sends no traces"},
		{"version = 4\n[debug]\nlog_trace_id = false", ""},
		{"version = 4\n[grpc]\naddress = '/x'", ":2: unknown key grpc"}, // of version 3
		{"version = 4\nimports = ['absent.toml']", ":2: import "},
		{"version = 4\n[timeouts]\n'anything' = '1s'", ""},
		{"version = 3\n[grpc]\n\nadress = ''", ":2: unknown key grpc"},
		{"version = 2\n[plugins.'io.containerd.internal.v1.restart']\nintervall = '1s'", ":3: unknown key plugins.'io.containerd.internal.v1.restart'.intervall, did you mean interval?"},
		{"[plugins.scheduler]\npauze_threshold = 1", ":2: unknown key plugins.scheduler.pauze_threshold, did you mean pause_threshold?"},
	} {
		_, notes, err := load(t, c.text)
		notes = slices.DeleteFunc(notes, func(n Note) bool { return n.Old })
		if c.want == "" && len(notes) == 0 && err == nil {
			continue
		}
		if err != nil || len(notes) != 1 || !strings.Contains(notes[0].String(), c.want) || c.want == "" {
			t.Errorf("%q: noted %v, %v; want %q", c.text, notes, err, c.want)
		}
	}
}

func TestBrokenFilesAreRefusedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"version = 4\nroot = 'x", "config.toml:2: "},
		{"version = 4\n\nroot = 5", "config.toml:3: root must be a string, not an integer"},
		{"version = 9", "config.toml:1: expected containerd config version equal to or less than `4`, got `9`"},
		{"\nversion = 'four'", "config.toml:2: expected"},
		{"version = 4\noom_score = 99999999999", "config.toml:2: oom_score must be an integer of 32 bits"},
		{"version = 4\ndebug = 1", "config.toml:2: debug must be a table, not an integer"},
		{"version = 4\nplugins = 1", "config.toml:2: plugins must be a table"},
		{"version = 4\n[timeouts]\nx = '2'", "config.toml:3: timeouts.x must be a duration such as '2s', not a string"},
		{"version = 4\ndisabled_plugins = ['cri']", `invalid disabled plugin URI "cri" expect io.containerd.x.vx`},
		{"version = 4\nrequired_plugins = [1]", "config.toml:2: required_plugins must be a string"},
		{"version = 4\n[plugins.'io.containerd.server.v1.grpc']\nuid = 'x'", "config.toml:3: plugins.'io.containerd.server.v1.grpc'.uid must be an integer"},
		{"version = 3\n[grpc]\nuid = 'x'", "config.toml:3: grpc.uid must be an integer"},
		{"[plugins.scheduler]\npause_threshold = 'x'", "config.toml:2: plugins.scheduler.pause_threshold must be a number"},
		{"version = 4\n[stream_processors.x]\nargs = 'a'", "config.toml:3: stream_processors.x.args must be an array"},
		{"version = 4\n[proxy_plugins]\nx = 1", "config.toml:3: proxy_plugins.x must be a table"},
		{"version = 4\n[debug]\n[debug]", "config.toml:3: "},
	} {
		_, _, err := load(t, c.text)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.text, err, c.want)
		}
	}
}

// The options of a component that is disabled may be those of another build.
func TestOptionsOfDisabledComponentsAreNotRead(t *testing.T) {
	_, notes, err := load(t, "version = 4\ndisabled_plugins = ['io.containerd.gc.v1.scheduler']\n[plugins.'io.containerd.gc.v1.scheduler']\nx = 1")
	if err != nil || len(notes) != 0 {
		t.Errorf("%v, %v", notes, err)
	}
}

func TestDropInsAreNotNewerThanTheFile(t *testing.T) {
	noDropIns(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"main.toml": "version = 2\nimports = ['drop.toml']", "drop.toml": "version = 3"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := LoadConfig(filepath.Join(dir, "main.toml"))
	if err == nil || !strings.Contains(err.Error(), "drop-in config version 3 higher than root config version 2") {
		t.Errorf("got %v", err)
	}
}

func TestImportsMayFormACircle(t *testing.T) {
	noDropIns(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"main.toml": "version = 4\nimports = ['a.toml']", "a.toml": "version = 4\nroot = '/a'\nimports = ['main.toml', '*.toml']",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, notes, err := LoadConfig(filepath.Join(dir, "main.toml"))
	if err != nil || c.Root != "/a" || len(notes) != 0 {
		t.Errorf("root %q, %v, %v", c.Root, notes, err)
	}
}

func TestTheAddressTakesTTRPCAlong(t *testing.T) {
	c := DefaultConfig()
	c.SetAddress("/x/c.sock")
	if got := options[ttrpcOptions](c, serverType+".ttrpc").Address; c.Address() != "/x/c.sock" || got != "/x/c.sock.ttrpc" {
		t.Errorf("ttrpc is at %s", got)
	}
}

func TestEveryComponentCanBeNamed(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range components {
		if seen[c.uri()] || isAbsent(c.uri()) {
			t.Errorf("name %s", c.uri())
		}
		for _, need := range c.needs {
			if !seen[need] {
				t.Errorf("%s needs %s, which is not before it", c.uri(), need)
			}
		}
		seen[c.uri()] = true
	}
}

func FuzzParseDocument(f *testing.F) {
	for _, file := range []string{"v1.toml", "v2.toml", "v3.toml", "imports/main.toml", "default.golden"} {
		text, err := os.ReadFile("testdata/" + file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("plugins.x = {a = {b = [1, {c = 2}]}}\n[[grpc]]\n[metrics]\naddress = 1979-05-27"))
	f.Add([]byte("[plugins.'io.containerd.runtime.v2.task']\nsched_core = true\n[plugins.'io.containerd.shim.v1.manager']\nenv = 1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseDocument("f", text)
		if err != nil {
			return
		}
		c, _, err := d.decode()
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("kind of %v", err)
			}
			return
		}
		if err := c.Write(&bytes.Buffer{}); err != nil {
			t.Errorf("cannot print what was read: %v", err)
		}
	})
}
