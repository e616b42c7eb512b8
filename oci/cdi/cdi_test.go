// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/oci"
)

const described = `{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu",
	"containerEdits": {"env": ["DRIVER=1"]},
	"devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null"}],
		"mounts": [{"hostPath": "/tmp", "containerPath": "/gpu", "options": ["ro", "bind"]}]}}]}`

func devices(t *testing.T) Devices {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gpu.json"), []byte(described), 0o644); err != nil {
		t.Fatal(err)
	}
	return Devices{Dirs: []string{dir}}
}

func TestDevicesBringNodesMountsAndEnvironment(t *testing.T) {
	for name, opt := range map[string]oci.Opt{"by name": devices(t).With("nvidia.com/gpu=0"), "by number": devices(t).WithGPUs("0")} {
		s := oci.Default("default", "c1")
		if err := opt(context.Background(), s); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := s.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/gpu0" || d[0].Major != 1 || d[0].Minor != 3 {
			t.Errorf("%s: devices %+v", name, d)
		}
		if !slices.Contains(s.Process.Env, "DRIVER=1") {
			t.Errorf("%s: environment %q", name, s.Process.Env)
		}
		last := s.Linux.Resources.Devices[len(s.Linux.Resources.Devices)-1]
		if !last.Allow || last.Major == nil || *last.Major != 1 {
			t.Errorf("%s: last rule %+v", name, last)
		}
		found := false
		for _, m := range s.Mounts {
			found = found || m.Destination == "/gpu"
		}
		if !found {
			t.Errorf("%s: no mount", name)
		}
	}
}

func TestUnknownDevicesAreNotFound(t *testing.T) {
	for name, opt := range map[string]oci.Opt{
		"name":   devices(t).With("nvidia.com/gpu=7"),
		"number": devices(t).WithGPUs("7"),
		"vendor": Devices{Dirs: []string{t.TempDir()}}.WithGPUs("0"),
	} {
		if err := opt(context.Background(), oci.Default("default", "c1")); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPathsAreNoNames(t *testing.T) {
	for s, want := range map[string]bool{"vendor.com/class=name": true, "/dev/null": false, "/dev/a=b": false, "vendor=x": false} {
		if IsName(s) != want {
			t.Errorf("IsName(%q) = %v", s, !want)
		}
	}
}
