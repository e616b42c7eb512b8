// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// delegatable lists the files that a user must own to rule a group, besides its
// directory: cgroups(7), "Delegating a hierarchy". Linux 4.15.
const delegatable = "/sys/kernel/cgroup/delegate"

// Delegate makes the group the user's, to have groups of its own below it. Of
// version 1 it does nothing, where that is not safe. Without permission it
// does nothing for rootless callers either.
func (m *Manager) Delegate(uid int) error {
	if !m.v2 {
		return nil
	}
	list, err := os.ReadFile(delegatable)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	files := strings.Fields(string(list))
	if len(files) == 0 {
		files = []string{"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
	}
	for _, name := range append(files, ".") {
		err := os.Lchown(filepath.Join(m.dirs[unified], name), uid, -1)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case errors.Is(err, os.ErrPermission) && m.rootless:
		case err != nil:
			return fmt.Errorf("cgroup: delegate: %w", err)
		}
	}
	return nil
}
