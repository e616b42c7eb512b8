// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os/exec"
	"testing"
)

// NetNS makes a network namespace whose loopback is up, and returns its file.
// It is gone when the test ends.
func NetNS(t testing.TB) string {
	t.Helper()
	Need(t, "ip", "nsenter", "unshare")
	holder := exec.Command("unshare", "-n", "sh", "-c", "ip link set lo up; echo up; exec sleep 100000")
	up, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	if _, err := up.Read(make([]byte, 3)); err != nil {
		t.Fatalf("network namespace: %v", err)
	}
	return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
}
