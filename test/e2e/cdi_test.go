// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/test/host"
)

// Devices of the container device interface are found where drivers describe
// them, and --gpus takes those of a known vendor.
func TestDescribedDevicesAreInTheContainer(t *testing.T) {
	d, ref := start(t)
	const dir = "/var/run/cdi"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	vendor := host.Unique("slipway") + ".test"
	file := filepath.Join(dir, vendor+"-thing.json")
	t.Cleanup(func() { os.Remove(file) })
	spec := `{"cdiVersion":"0.6.0","kind":"` + vendor + `/thing","devices":[
		{"name":"one","containerEdits":{"env":["THING=one"],"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/null"}],
		 "mounts":[{"hostPath":"/etc/hostname","containerPath":"/etc/thing","options":["ro","bind"]}]}}],
		"containerEdits":{"env":["ALL=yes"]}}`
	if err := os.WriteFile(file, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	out := d.Ctr(t, "run", "--rm", "--device", vendor+"/thing=one", ref, host.Unique("cdi"),
		"sh", "-c", "echo $THING $ALL; stat -c '%t:%T' /dev/thing; echo x > /dev/thing && cat /etc/thing")
	name, err := os.ReadFile("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(strings.Fields(out), " "), "one yes 1:3 "+strings.TrimSpace(string(name)); got != want {
		t.Errorf("the container sees %q, want %q", got, want)
	}
	if list, err := filepath.Glob("/etc/cdi/*"); err == nil && len(list) > 0 {
		t.Logf("devices of this host are described: --gpus is not tried")
	} else if list, err := filepath.Glob(dir + "/*gpu*"); err == nil && len(list) == 0 {
		gpu := filepath.Join(dir, "nvidia.com-gpu.json")
		t.Cleanup(func() { os.Remove(gpu) })
		spec := `{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{"name":"0","containerEdits":{"env":["GPU=zero"]}}]}`
		if err := os.WriteFile(gpu, []byte(spec), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := d.Ctr(t, "run", "--rm", "--gpus", "0", ref, host.Unique("gpu"), "sh", "-c", "echo $GPU"); strings.TrimSpace(out) != "zero" {
			t.Errorf("the container of the GPU says %q", out)
		}
		fails(t, d, 1, "nvidia.com/gpu=1", "run", "--rm", "--gpus", "1", ref, host.Unique("gpu"), "true")
	}
	fails(t, d, 1, vendor+"/thing=two", "run", "--rm", "--device", vendor+"/thing=two", ref, host.Unique("cdi"), "true")
}
