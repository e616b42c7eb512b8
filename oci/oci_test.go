// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares v as JSON with a file below testdata.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("differs from %s:\n%s", file, got)
	}
}

func apply(t *testing.T, s *specs.Spec, opts ...Opt) *specs.Spec {
	t.Helper()
	if err := Apply(t.Context(), s, opts...); err != nil {
		t.Fatal(err)
	}
	return s
}

// bare.json is what "ctr oci spec" of containerd 1.6 prints, with the
// version of the specification, the cgroup path and the masked path
// /sys/devices/virtual/powercap of later releases.
func TestBareSpecIsThatOfThePeer(t *testing.T) { golden(t, "bare.json", Bare("default", "")) }

func TestSpecOfAContainer(t *testing.T) {
	img := ocispec.Image{Config: ocispec.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"PATH=/app:/bin", "MODE=a"}, WorkingDir: "srv",
	}}
	s := apply(t, Default("ns", "id"),
		WithImageConfig(img, nil), WithEnv("MODE=b", "LANG=C", "PATH"), WithTTY(), WithHostname("box"),
		WithHostNamespace(specs.NetworkNamespace), WithHostHosts(), WithHostResolvConf(), WithNamespace(specs.IPCNamespace, "/proc/1/ns/ipc"),
		WithNamespace(specs.CgroupNamespace, ""), WithCapabilities([]string{"CAP_SYS_ADMIN"}, []string{"CAP_KILL"}),
		WithMemoryLimit(1<<20), WithCPUs(1.5), WithCPUShares(512), WithCPUSets("0-1", ""), WithPidsLimit(10), WithRlimit("RLIMIT_NOFILE", 5, 6),
		WithReadonlyRoot(), WithRootfsPropagation("rslave"), WithNewPrivileges(), WithAppArmor("p"), WithAnnotations(map[string]string{"a": "b"}),
		WithDevice("/dev/null"), WithUserNamespace([]specs.LinuxIDMapping{{HostID: 1000, Size: 10}}, []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}))
	s.Linux.Devices[0].FileMode = nil // the host's
	golden(t, "container.json", s)
}

func TestImageConfig(t *testing.T) {
	for _, c := range []struct {
		claim           string
		entrypoint, cmd []string
		args            []string
		want            string
	}{
		{"the command follows the entry point", []string{"e"}, []string{"c"}, nil, "e c"},
		{"arguments replace the command only", []string{"e"}, []string{"c"}, []string{"x", "y"}, "e x y"},
		{"a command alone", nil, []string{"c"}, nil, "c"},
		{"nothing to run is said by the runtime", nil, nil, nil, ""},
	} {
		s := Default("n", "i")
		img := ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: c.entrypoint, Cmd: c.cmd}}
		err := Apply(t.Context(), s, WithImageConfig(img, c.args))
		if got := strings.Join(s.Process.Args, " "); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", c.claim, got, err)
		}
	}
}

func TestEnvFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("A=1\n\n# no\nB=x=y\nPATH=/p\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := apply(t, Default("n", "i"), WithEnvFile(file))
	if want := []string{"PATH=/p", "A=1", "B=x=y"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("%q", s.Process.Env)
	}
}

func TestOptsRefuseNonsense(t *testing.T) {
	for name, o := range map[string]Opt{
		"propagation":       WithRootfsPropagation("sideways"),
		"namespace":         WithNamespace("soup", ""),
		"capability":        WithCapabilities([]string{"SYS_ADMIN"}, nil),
		"dropped":           WithCapabilities(nil, []string{"CAP_NONE"}),
		"cpus":              WithCPUs(-1),
		"memory":            WithMemoryLimit(1 << 63),
		"device":            WithDevice("/etc/passwd"),
		"seccomp no device": WithDevice("/proc/self/status"),
	} {
		if err := Apply(t.Context(), Default("n", "i"), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Apply(t.Context(), Default("n", "i"), WithDevice("/dev/absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent device: %v", err)
	}
}

func TestPrivilegedHidesNothing(t *testing.T) {
	s := apply(t, Default("n", "i"), WithMounts(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"ro"}}),
		WithSeccompDefault(), WithPrivileged(true))
	if s.Linux.Seccomp != nil || s.Linux.MaskedPaths != nil || s.Linux.ReadonlyPaths != nil {
		t.Error("something is masked or filtered")
	}
	for _, m := range s.Mounts {
		if slices.Contains(m.Options, "ro") {
			t.Errorf("%s is read-only", m.Destination)
		}
	}
	if !slices.ContainsFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == "/dev/null" && d.Type == "c" && d.Minor == 3 }) {
		t.Error("no /dev/null of the host")
	}
	if d := s.Linux.Resources.Devices; len(d) != 1 || !d[0].Allow {
		t.Errorf("device rules %+v", d)
	}
	all, err := currentCaps()
	if err != nil || !slices.Equal(s.Process.Capabilities.Bounding, all) {
		t.Errorf("capabilities %v, %v", s.Process.Capabilities.Bounding, err)
	}
	if got := capNames(1<<21 | 1); !slices.Equal(got, []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}) {
		t.Errorf("names of bits 0 and 21: %v", got)
	}
}

// allowed tells what a profile does with a call that has no arguments.
func allowed(p *specs.LinuxSeccomp, call string) bool {
	for _, s := range p.Syscalls {
		if slices.Contains(s.Names, call) && s.Action == specs.ActAllow && len(s.Args) == 0 {
			return true
		}
	}
	return false
}

func TestSeccompFollowsCapabilities(t *testing.T) {
	plain, admin := defaultProfile(defaultCaps(), "amd64"), defaultProfile([]string{"CAP_SYS_ADMIN"}, "amd64")
	for call, want := range map[string][2]bool{ // by plain, by admin
		"read": {true, true}, "statmount": {true, true}, "lsm_get_self_attr": {true, true}, "openat2": {true, true}, "arch_prctl": {true, true}, "ptrace": {true, true},
		"chroot": {true, false}, "mount": {false, true}, "unshare": {false, true}, "clone": {false, true}, "clone3": {false, true},
		"io_uring_setup": {false, false}, "keyctl": {false, false}, "kexec_load": {false, false}, "reboot": {false, false},
		"init_module": {false, false}, "userfaultfd": {false, false}, "socket": {false, false}, "cacheflush": {false, false},
	} {
		if got := [2]bool{allowed(plain, call), allowed(admin, call)}; got != want {
			t.Errorf("%s: allowed %v, want %v", call, got, want)
		}
	}
	if plain.DefaultAction != specs.ActErrno || *plain.DefaultErrnoRet != 1 {
		t.Errorf("default %v", plain.DefaultAction)
	}
	at := slices.IndexFunc(plain.Syscalls, func(s specs.LinuxSyscall) bool { return s.Names[0] == "clone" })
	if at < 0 || plain.Syscalls[at].Args[0] != (specs.LinuxSeccompArg{Value: 0x7e020000, Op: specs.OpMaskedEqual}) {
		t.Errorf("clone: %+v", plain.Syscalls)
	}
	if s := plain.Syscalls[at+1]; s.Names[0] != "clone3" || *s.ErrnoRet != 38 {
		t.Errorf("clone3: %+v", s)
	}
	var sockets []specs.LinuxSeccompArg
	for _, s := range plain.Syscalls {
		if s.Names[0] == "socket" {
			sockets = append(sockets, s.Args...)
		}
	}
	if want := []specs.LinuxSeccompArg{{Value: 38, Op: specs.OpLessThan}, {Value: 39, Op: specs.OpEqualTo}, {Value: 40, Op: specs.OpGreaterThan}}; !slices.Equal(sockets, want) {
		t.Errorf("sockets of the families %+v", sockets)
	}
	if p := defaultProfile(nil, "arm64"); !allowed(p, "cacheflush") || allowed(p, "arch_prctl") || p.Architectures[0] != specs.ArchAARCH64 {
		t.Error("arm64 has the calls of another machine")
	}
}
