// SPDX-License-Identifier: Apache-2.0

package runtime_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// user is nobody that the machine knows.
const user = 5555

// newUserLab is a lab whose command is run by a user without rights.
func newUserLab(t *testing.T) *lab {
	t.Helper()
	if out, err := userCommand("/bin/busybox", "unshare", "-U", "true").CombinedOutput(); err != nil {
		t.Skipf("users may not make user namespaces here: %v: %s", err, out)
	}
	l := newLab(t, runc)
	dir, err := os.MkdirTemp("", "slipway-user") // the directories of package testing are root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(runc)
	if err != nil {
		t.Fatal(err)
	}
	l.dir, l.root, l.command = dir, filepath.Join(dir, "state"), filepath.Join(dir, "runc")
	if err := os.WriteFile(l.command, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := makeRootfs(filepath.Join(dir, "rootfs")); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, user, user))
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func userCommand(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	return cmd
}

// userBundle writes the specification of a container that a user may have,
// edited.
func (l *lab) userBundle(edit func(*specs.Spec)) {
	l.t.Helper()
	l.bundle(func(s *specs.Spec) {
		own := []specs.LinuxIDMapping{{HostID: user, Size: 1}}
		s.Linux.UIDMappings, s.Linux.GIDMappings, s.Linux.Resources = own, own, nil
		s.Process.Args = []string{"echo", "up"}
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "user"}, {Type: "pid"}, {Type: "mount"}}
		s.Hostname, s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = "", nil, nil, nil
		edit(s)
	})
}

// asUser runs the container of userBundle.
func (l *lab) asUser(edit func(*specs.Spec)) (output string, err error) {
	l.t.Helper()
	l.userBundle(edit)
	return l.userRun("run", l.name)
}

// userRun is run, by the user.
func (l *lab) userRun(args ...string) (output string, err error) {
	l.t.Helper()
	f, err := os.CreateTemp(l.dir, "out") // a container may keep it
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	cmd := userCommand(l.command, append([]string{"--root", l.root}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir, f, f
	err = cmd.Run()
	text, readErr := os.ReadFile(f.Name())
	return string(text), errors.Join(err, readErr)
}

func TestAUserWithoutGroups(t *testing.T) {
	const discouraged = "Such configuration is strongly discouraged"
	l := newUserLab(t)
	if out, err := l.asUser(func(*specs.Spec) {}); err != nil || out != "up\n" {
		t.Errorf("%v: %s", err, out)
	}
	out, err := l.asUser(func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces[:1], s.Linux.Namespaces[2:]...) })
	if err != nil || !strings.Contains(out, discouraged) || !strings.HasSuffix(out, "up\n") {
		t.Errorf("without a pid namespace: %v: %s", err, out)
	}
	out, err = l.asUser(func(s *specs.Spec) { s.Linux.CgroupsPath = "/" + l.name })
	if err == nil || !strings.Contains(out, "unable to apply cgroup configuration") || !strings.Contains(out, "permission denied") {
		t.Errorf("with a group: %v: %s", err, out)
	}
	limit := int64(100)
	out, err = l.asUser(func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}} })
	if err == nil || !strings.Contains(out, "cannot set pids limit: container could not join or create cgroup") {
		t.Errorf("with a limit: %v: %s", err, out)
	}
}

func TestAUserKillsAContainerWithoutGroupsAndPidNamespace(t *testing.T) {
	l := newUserLab(t)
	l.userBundle(func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces[:1], s.Linux.Namespaces[2:]...)
		s.Process.Args = []string{"sleep", "300"}
	})
	for _, args := range [][]string{{"run", "-d", l.name}, {"kill", l.name, "KILL"}} {
		if out, err := l.userRun(args...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	l.await(l.name, "stopped")
	if out, err := l.userRun("delete", l.name); err != nil {
		t.Errorf("delete: %v: %s", err, out)
	}
}
