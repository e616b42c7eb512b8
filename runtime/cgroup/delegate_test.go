// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestDelegate(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give files away")
	}
	for _, v2 := range []bool{true, false} {
		dir := t.TempDir()
		for _, name := range []string{"cgroup.procs", "cgroup.subtree_control", "memory.max"} { // cgroup.threads is missing
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m := &Manager{dirs: map[string]string{unified: dir}, v2: v2}
		if err := m.Delegate(1234); err != nil {
			t.Fatal(err)
		}
		for name, given := range map[string]bool{".": v2, "cgroup.procs": v2, "cgroup.subtree_control": v2, "memory.max": false} {
			fi, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if st := fi.Sys().(*syscall.Stat_t); (st.Uid == 1234) != given || st.Gid != 0 {
				t.Errorf("version 2 %v: %s belongs to %d:%d", v2, name, st.Uid, st.Gid)
			}
		}
	}
}
