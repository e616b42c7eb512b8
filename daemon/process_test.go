// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// In version 1 a new group of the cpuset controller takes no process before it
// has CPUs and memory nodes.
func TestTheCgroupOfTheConfigurationIsMadeAndJoined(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/slipway-daemon-test-%d", os.Getpid())
	path := parent + "/below"
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		for _, level := range []string{path, parent} {
			dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + level)
			for _, dir := range append(dirs, "/sys/fs/cgroup"+level) {
				if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
					t.Errorf("%s: %v", dir, err)
				}
			}
		}
	})
	if err := joinCgroup(cmd.Process.Pid, "/sys/fs/cgroup", path); err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		controllers := strings.Split(line, ":")[1]
		_, err := os.Stat(filepath.Join("/sys/fs/cgroup", controllers, "cgroup.procs"))
		if err == nil && controllers != "" && !strings.HasSuffix(line, path+"\n") {
			t.Errorf("the process is in %s", line)
		}
	}
}
