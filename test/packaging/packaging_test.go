// SPDX-License-Identifier: Apache-2.0

// Package packaging checks what `make install` and `make rpm` give.
package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// TestRPMHasTheFilesOfTheService unpacks the package without a package
// manager: names, modes, the unit, the scripts.
func TestRPMHasTheFilesOfTheService(t *testing.T) {
	host.NeedBuilt(t)
	host.Need(t, "rpmbuild", "rpm", "rpm2cpio", "cpio")
	dist := filepath.Join(host.Root(), "dist")
	t.Cleanup(func() { os.RemoveAll(dist) })
	rpm := strings.TrimSpace(host.Must(t, filepath.Join(host.Root(), "packaging", "rpm.sh"), "2.3.4"))
	if i := strings.LastIndex(rpm, "\n"); i >= 0 {
		rpm = rpm[i+1:]
	}
	file := filepath.Join(host.Root(), rpm)
	list := host.Must(t, "rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", file)
	for _, want := range []string{
		"-rwxr-xr-x /usr/bin/containerd\n", "-rwxr-xr-x /usr/bin/containerd-shim-runc-v2\n", "-rwxr-xr-x /usr/bin/ctr\n", "-rwxr-xr-x /usr/bin/runc\n",
		"-rw-r--r-- /usr/lib/systemd/system/containerd.service\n", "-rw-r--r-- /etc/containerd/config.toml\n",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("%q is not in\n%s", want, list)
		}
	}
	if s := host.Must(t, "rpm", "-qp", "--scripts", file); !strings.Contains(s, "systemctl daemon-reload") {
		t.Errorf("the scripts do not tell systemd: %s", s)
	}
	dir := host.TempDir(t)
	host.Must(t, "sh", "-c", `cd "$0" && rpm2cpio "$1" | cpio -idm --quiet`, dir, file)
	unit, err := os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/containerd.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ExecStart=/usr/bin/containerd\n", "KillMode=process\n", "Delegate=yes\n", "Type=notify\n"} {
		if !strings.Contains(string(unit), want) {
			t.Errorf("%q is not in\n%s", want, unit)
		}
	}
	if out := host.Must(t, filepath.Join(dir, "usr/bin/containerd"), "--version"); !strings.Contains(out, "2.3.4") {
		t.Errorf("version %q", out)
	}
}
