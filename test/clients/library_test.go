// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"slipway/test/host"
)

func TestProgramOfUpstreamsGoClient(t *testing.T) {
	host.NeedBuilt(t)
	program := filepath.Join(host.TempDir(t), "library")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join(host.Root(), "test", "clients", "library")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := host.Start(t, host.Options{})
	ref := host.StartRegistry(t).Push(t, host.Busybox(t), "library/busybox:latest")
	r := host.Exec(t, nil, "", program, d.Address, ref)
	if r.Code != 0 || r.Stdout != "all done\n" {
		t.Errorf("exit code %d\n%s%s\n%s", r.Code, r.Stdout, r.Stderr, d.Tail())
	}
}
