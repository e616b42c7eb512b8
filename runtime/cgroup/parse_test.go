// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestWeightMeetsTheOldPoints(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000, 10: 4, 512: 59, 2048: 174, 4096: 303} {
		if got := Weight(shares); got != want {
			t.Errorf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
}

func TestSwapMax(t *testing.T) {
	for _, c := range []struct {
		limit, swap int64
		want        string
		bad         bool
	}{
		{0, 0, "", false}, {100, 0, "", false}, {-1, 0, "max", false}, {100, -1, "max", false},
		{100, 100, "0", false}, {100, 250, "150", false}, {0, 100, "", true}, {100, 50, "", true}, {-1, 100, "", true},
	} {
		got, err := swapMax(c.limit, c.swap)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}

func TestSlices(t *testing.T) {
	for slice, want := range map[string]string{
		"-.slice": "/", "system.slice": "/system.slice", "a-b-c.slice": "/a.slice/a-b.slice/a-b-c.slice",
		"": "!", "a": "!", "a--b.slice": "!", "a/b.slice": "!", "-a.slice": "!",
	} {
		got, err := expandSlice(slice)
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", slice, got, want)
		}
	}
}

func TestUnitNames(t *testing.T) {
	for path, want := range map[string]string{
		"": "system.slice runc-c1.scope", "a.slice:cri:x": "a.slice cri-x.scope", ":cri:x": "system.slice cri-x.scope",
		"a.slice::x": "a.slice x.scope", "a.slice::b.slice": "a.slice b.slice", "/a/b": "!", "a:b": "!",
	} {
		u, err := newUnit(Config{ID: "c1", Path: path, Systemd: true})
		got := "!"
		if err == nil {
			got = u.slice + " " + u.name
		} else if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Error(err)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

const hybridTable = `25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw
27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
29 25 0:26 /docker/x /sys/fs/cgroup/a\040b rw - cgroup cgroup rw,devices
`

func TestMountTable(t *testing.T) {
	h, err := parseMounts(strings.NewReader(hybridTable))
	if err != nil {
		t.Fatal(err)
	}
	if h.v2() || h.hybrid.dir != "/sys/fs/cgroup/unified" {
		t.Errorf("got %+v", h)
	}
	if got := slices.Sorted(maps.Keys(h.v1)); !slices.Equal(got, []string{"cpu", "cpuacct", "devices", "name=systemd"}) {
		t.Errorf("got %v", got)
	}
	if m := h.v1["devices"]; m.dir != "/sys/fs/cgroup/a b" || m.below("/docker/x/y") != "/y" {
		t.Errorf("got %+v, %s", m, m.below("/docker/x/y"))
	}
	dirs := map[string]string{}
	if err := h.resolve(dirs, Config{Path: "/../../c"}); err != nil || dirs["cpu"] != "/sys/fs/cgroup/cpu,cpuacct/c" {
		t.Errorf("got %v, %v", dirs, err)
	}
}

func FuzzMountTable(f *testing.F) {
	f.Add(hybridTable)
	f.Add("1 2 0:1 / / - \n")
	f.Fuzz(func(t *testing.T, text string) {
		if h, err := parseMounts(strings.NewReader(text)); err == nil {
			_ = h.resolve(map[string]string{}, Config{Path: "/a"})
		}
	})
}

// verdict interprets a device program, as far as deviceProgram goes.
func verdict(t *testing.T, p []insn, kind, access, major, minor uint32) bool {
	t.Helper()
	ctx := map[int16]uint32{0: access<<16 | kind, 4: major, 8: minor}
	var r [10]uint64
	for pc := 0; pc < len(p); pc++ {
		i := p[pc]
		switch i.op {
		case opLoad:
			r[i.dst] = uint64(ctx[i.off])
		case opMove:
			r[i.dst] = r[i.src]
		case opMove32:
			r[i.dst] = uint64(uint32(i.imm))
		case opAnd32:
			r[i.dst] = uint64(uint32(r[i.dst]) & uint32(i.imm))
		case opShift32:
			r[i.dst] = uint64(uint32(r[i.dst]) >> i.imm)
		case opNotEqual:
			if r[i.dst] != uint64(int64(i.imm)) {
				pc += int(i.off)
			}
		case opEqual:
			if r[i.dst] == uint64(int64(i.imm)) {
				pc += int(i.off)
			}
		case opExit:
			return r[regVerdict] == 1
		default:
			t.Fatalf("instruction %d: opcode %#x", pc, i.op)
		}
	}
	t.Fatal("the program ran past its end")
	return false
}

func TestDeviceRules(t *testing.T) {
	const block, char = 1, 2
	deny := specs.LinuxDeviceCgroup{Access: "rwm"}
	not := func(d specs.LinuxDeviceCgroup) specs.LinuxDeviceCgroup { d.Allow = false; return d }
	for _, c := range []struct {
		name                       string
		rules                      []specs.LinuxDeviceCgroup
		kind, access, major, minor uint32
		want                       bool
	}{
		{"null by default", nil, char, accessRead | accessWrite, 1, 3, true},
		{"a block device by default", nil, block, accessRead, 1, 3, false},
		{"mknod by default", nil, block, accessMknod, 8, 0, true},
		{"a terminal by default", nil, char, accessRead, 136, 77, true},
		{"an access that means nothing", []specs.LinuxDeviceCgroup{deny, allowed("b", 8, 0, "ra")}, block, accessRead | accessWrite, 8, 0, false},
		{"an access beside one that means nothing", []specs.LinuxDeviceCgroup{deny, allowed("b", 8, 0, "ra")}, block, accessRead, 8, 0, true},
		{"what is allowed", []specs.LinuxDeviceCgroup{deny, allowed("b", 8, 0, "r")}, block, accessRead, 8, 0, true},
		{"more than is allowed", []specs.LinuxDeviceCgroup{deny, allowed("b", 8, 0, "r")}, block, accessRead | accessWrite, 8, 0, false},
		{"the sum of two rules", []specs.LinuxDeviceCgroup{deny, allowed("b", 8, 0, "r"), allowed("b", 8, any_, "w")}, block, accessRead | accessWrite, 8, 0, true},
		{"one out of all", []specs.LinuxDeviceCgroup{{Allow: true}, not(allowed("b", 8, 0, "rw"))}, block, accessRead, 8, 0, false},
		{"another out of all", []specs.LinuxDeviceCgroup{{Allow: true}, not(allowed("b", 8, 0, "rw"))}, block, accessRead, 8, 1, true},
		{"denied later", []specs.LinuxDeviceCgroup{deny, allowed("b", 8, any_, "rwm"), not(allowed("b", 8, 1, "w"))}, block, accessWrite, 8, 1, false},
		{"read where writing is denied", []specs.LinuxDeviceCgroup{deny, allowed("b", 8, any_, "rwm"), not(allowed("b", 8, 1, "w"))}, block, accessRead, 8, 1, true},
		{"void after a rule for all", []specs.LinuxDeviceCgroup{allowed("b", 8, 0, "r"), deny}, block, accessRead, 8, 0, false},
	} {
		rules, err := deviceRules(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		if got := verdict(t, deviceProgram(rules), c.kind, c.access, c.major, c.minor); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "x"}, {Type: "c", Access: "rx"}, {Type: "c", Major: ptr(int64(-7))}} {
		if _, err := deviceRules([]specs.LinuxDeviceCgroup{bad}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}

func TestBitmap(t *testing.T) {
	if got := bitmap("0-2,9"); !slices.Equal(got, []byte{7, 2}) {
		t.Errorf("got %v", got)
	}
}
