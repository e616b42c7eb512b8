// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"slipway/ctr/progress"
)

func TestSizesAndAges(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{progress.Bytes(0), "0.0 B"},
		{progress.Bytes(1036731), "1012.4 KiB"},
		{progress.Bytes(8192), "8.0 KiB"},
		{progress.Bytes(3 << 30), "3.0 GiB"},
		{decimalSize(251), "251B"},
		{decimalSize(1036075), "1.036MB"},
		{age(0), "Less than a second"},
		{age(time.Second), "1 second"},
		{age(90 * time.Second), "About a minute"},
		{age(time.Hour), "About an hour"},
		{age(47 * time.Hour), "47 hours"},
		{age(13 * 24 * time.Hour), "13 days"},
		{age(30 * 24 * time.Hour), "4 weeks"},
		{age(300 * 24 * time.Hour), "10 months"},
		{age(800 * 24 * time.Hour), "2 years"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestSignals(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"": unix.SIGTERM, "9": unix.SIGKILL, "KILL": unix.SIGKILL, "SIGHUP": unix.SIGHUP, "sigusr1": unix.SIGUSR1, "RTMIN+3": 37,
		"RTMIN": 34, "SIGRTMAX-2": 62, "IOT": unix.SIGABRT, "cld": unix.SIGCHLD, "POLL": unix.SIGIO,
	} {
		if got, err := parseSignal(name); got != want || err != nil {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"NOPE", "RTMIN+99", "SIG", "0"} {
		if got, err := parseSignal(name); err == nil {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestMounts(t *testing.T) {
	got, err := parseMount(`type=bind,src=/a,"dst=/b,c",options=rbind:ro`)
	want := specs.Mount{Type: "bind", Source: "/a", Destination: "/b,c", Options: []string{"rbind", "ro"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for text, complaint := range map[string]string{
		"foo": "invalid mount specification: expected key=val", "size=1": `mount option "size" not supported`, "": "EOF",
	} {
		if _, err := parseMount(text); err == nil || err.Error() != complaint {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestIDMappings(t *testing.T) {
	got, err := idMappings([]string{"0:1000:65536"})
	if err != nil || got[0] != (specs.LinuxIDMapping{ContainerID: 0, HostID: 1000, Size: 65536}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "0:1", "0:1:2:3", "a:b:c", "-1:0:1", "0:0:99999999999"} {
		if got, err := idMappings([]string{text}); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestContainerFlagsRefuse claims that what contradicts itself is refused
// with the words of the peer, before anything is made.
func TestContainerFlagsRefuse(t *testing.T) {
	for args, complaint := range map[string]string{
		"--with-ns foo":                                     "joining a Linux namespace using --with-ns requires the format 'nstype:path'",
		"--with-ns foo:/x":                                  "the Linux namespace type specified in --with-ns is not valid: foo",
		"--cap-add SYS_ADMIN":                               "capabilities must be specified with 'CAP_' prefix",
		"--seccomp-profile x":                               "seccomp must be set to true, if using a custom seccomp-profile",
		"--cpus 1 --cpu-quota 5":                            "cpus and quota/period should be used separately",
		"--privileged-without-host-devices":                 "can't use 'privileged-without-host-devices' without 'privileged' specified",
		"--runc-systemd-cgroup":                             `option --runc-systemd-cgroup requires --cgroup to be set, e.g. "machine.slice:foo:deadbeef"`,
		"--annotation x":                                    "invalid key=value format annotation: x",
		"--apparmor-profile a --apparmor-default-profile b": "apparmor-profile conflicts with apparmor-default-profile",
	} {
		c := &cobra.Command{}
		f := containerOf(c.Flags())
		if err := c.ParseFlags(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.opts(); err == nil || err.Error() != complaint {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestRuntimeOptionsAreOfTheRuntime claims that runc's shim gets its own
// options, and another's only the path of its configuration.
func TestRuntimeOptionsAreOfTheRuntime(t *testing.T) {
	for _, c := range []struct {
		flags runtimeFlags
		want  string
	}{
		{runtimeFlags{name: "io.containerd.runc.v2", configPath: "/c"}, "containerd.runc.v1.Options"},
		{runtimeFlags{name: "io.containerd.x.v1", configPath: "/c"}, "runtimeoptions.v1.Options"},
		{runtimeFlags{name: "io.containerd.x.v1"}, ""},
	} {
		got, err := c.flags.options()
		if err != nil || got.GetTypeUrl() != c.want {
			t.Errorf("%+v: %v, %v", c.flags, got, err)
		}
	}
	if _, err := (&runtimeFlags{name: "io.containerd.x.v1", binary: "crun"}).options(); err == nil {
		t.Error("another runtime takes runc's options")
	}
}

// TestEveryCommandCanBeDeclared claims that no two flags of a command clash,
// that every command has a line of help, and that names are not used twice.
func TestEveryCommandCanBeDeclared(t *testing.T) {
	s := &session{}
	root := &cobra.Command{Use: "ctr"}
	s.globals.declare(root.Flags())
	tr := newTree(s)
	tr.add(root, commands())
	tr.fillAll()
	for c, declare := range tr.declare {
		declare()
		if c.Short == "" {
			t.Errorf("%s has no help", c.CommandPath())
		}
	}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		var names []string
		for _, sub := range c.Commands() {
			names = append(append(names, sub.Name()), sub.Aliases...)
			visit(sub)
		}
		slices.Sort(names)
		if u := slices.Compact(slices.Clone(names)); len(u) != len(names) {
			t.Errorf("%s: a name is used twice: %s", c.CommandPath(), names)
		}
	}
	visit(root)
}

// TestFindsTheCommand claims that only the command that is meant is declared,
// whatever flags come before it, and that groups that are not are left alone.
func TestFindsTheCommand(t *testing.T) {
	s := &session{}
	root := &cobra.Command{Use: "ctr"}
	s.globals.declare(root.Flags())
	tr := newTree(s)
	tr.add(root, commands())
	for args, want := range map[string]string{
		"i ls":                            "ctr images list",
		"-n foo --debug t rm -f x":        "ctr tasks delete",
		"--address=/x snapshots ls":       "ctr snapshots list",
		"snapshots --snapshotter sn tree": "ctr snapshots tree",
		"run -d busybox ls":               "ctr run",
		"nothing":                         "",
		"images":                          "",
		"-n images":                       "",
	} {
		got := ""
		if c := tr.find(root, strings.Fields(args)); c != nil {
			got = c.CommandPath()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	if child(root, "leases").HasSubCommands() || len(child(root, "images").Commands()) == 0 {
		t.Error("groups that no arguments named are filled, or one that they named is not")
	}
}

// TestListFlag claims that a flag that may be repeated keeps what it is given
// as it is, in order, and looks to users as the library's own does.
func TestListFlag(t *testing.T) {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	got := listFlag(f, "label", "Label to attach")
	if err := f.Parse([]string{"--label", "a=1,2", "--label=b", "--label", ""}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a=1,2", "b", ""}; !slices.Equal(*got, want) {
		t.Errorf("%q, want %q", *got, want)
	}
	theirs := pflag.NewFlagSet("", pflag.ContinueOnError)
	theirs.StringArray("label", nil, "Label to attach")
	if f := pflag.NewFlagSet("", pflag.ContinueOnError); listFlag(f, "label", "Label to attach") == nil || f.FlagUsages() != theirs.FlagUsages() {
		t.Errorf("help %q, the library's %q", f.FlagUsages(), theirs.FlagUsages())
	}
}
