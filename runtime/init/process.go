// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite/procfs"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// become makes this process the user's in all but its program, which it
// finds. It keeps the capabilities that finish needs.
func (c *container) become() (program string, err error) {
	p := c.Spec.Process
	if err := ownTimers(); err != nil {
		return "", err
	}
	if err := c.schedule(); err != nil {
		return "", err
	}
	if err := c.labels(); err != nil {
		return "", err
	}
	if p.NoNewPrivileges {
		if err := linux.Prctl("set no_new_privs", unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
			return "", err
		}
	}
	if err := giveStdio(int(p.User.UID)); err != nil {
		return "", err
	}
	chdirErr := unix.Chdir(p.Cwd)
	if err := c.user(); err != nil {
		return "", err
	}
	if errors.Is(chdirErr, unix.EACCES) {
		chdirErr = unix.Chdir(p.Cwd)
	}
	if chdirErr != nil {
		return "", fmt.Errorf("chdir to cwd (%q) set in config.json failed: %w", p.Cwd, chdirErr)
	}
	if err := insideRoot(); err != nil {
		return "", err
	}
	umask := 0o022
	if p.User.Umask != nil {
		umask = int(*p.User.Umask)
	}
	unix.Umask(umask)
	c.environment()
	return find(p.Args[0])
}

// ownTimers ends the slack that the runtime gave this program's timers.
func ownTimers() error { return linux.Prctl("reset timer slack", unix.PR_SET_TIMERSLACK, 0) }

// find looks for the program the way a shell does, as the user.
func find(name string) (string, error) {
	program, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		err = nil // the user's PATH is the user's choice
	}
	if err != nil {
		return "", err
	}
	return program, nil
}

// insideRoot makes sure that the working directory was not reached by way of
// a descriptor from outside of the container (CVE-2024-21626).
func insideRoot() error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	if err == nil && n > 0 && buf[0] == '/' {
		return nil
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return errors.New("current working directory is outside of container mount namespace root -- possible container breakout detected")
	}
	return os.NewSyscallError("getcwd", err)
}

// giveStdio lets the user open /proc/self/fd/1 and its like, for which Linux
// looks at the owner of what is behind. Files that cannot be given are left.
func giveStdio(uid int) error {
	for fd := range 3 {
		f := os.NewFile(uintptr(fd), "stdio")
		st, err := linux.Stat(f)
		if err != nil {
			return err
		}
		if int(st.Uid) == uid || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			continue
		}
		switch err := unix.Fchown(fd, uid, int(st.Gid)); err {
		case nil, unix.EINVAL, unix.EPERM, unix.EROFS, unix.ENOSYS:
		default:
			return &os.PathError{Op: "chown", Path: "stdio", Err: err}
		}
	}
	return nil
}

// user changes the user and groups, and drops what the bounding set has not.
func (c *container) user() error {
	p := c.Spec.Process
	if err := linux.DropBounding(c.bounding()); err != nil {
		return err
	}
	if err := linux.Prctl("keep capabilities", unix.PR_SET_KEEPCAPS, 1); err != nil {
		return err
	}
	if err := linux.SetGroups(p.User.AdditionalGids); err != nil {
		if len(p.User.AdditionalGids) > 0 || !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	if err := linux.SetGid(p.User.GID); err != nil {
		return fmt.Errorf("group %d: %w", p.User.GID, err)
	}
	if err := linux.SetUid(p.User.UID); err != nil {
		return fmt.Errorf("user %d: %w", p.User.UID, err)
	}
	if err := linux.Prctl("keep capabilities", unix.PR_SET_KEEPCAPS, 0); err != nil {
		return err
	}
	if err := linux.Prctl("set dumpable", unix.PR_SET_DUMPABLE, 0); err != nil {
		return err
	}
	now, err := linux.GetCapabilities()
	if err != nil {
		return err
	}
	now.Effective = now.Permitted
	return linux.SetCapabilities(now)
}

func (c *container) bounding() uint64 {
	if c.Spec.Process.Capabilities == nil {
		return 0
	}
	return linux.CapabilityMask(c.Spec.Process.Capabilities.Bounding)
}

// capabilities gives the process its final sets.
func (c *container) capabilities() error {
	var sets linux.Capabilities
	var ambient uint64
	if caps := c.Spec.Process.Capabilities; caps != nil {
		sets = linux.Capabilities{
			Effective:   linux.CapabilityMask(caps.Effective),
			Permitted:   linux.CapabilityMask(caps.Permitted),
			Inheritable: linux.CapabilityMask(caps.Inheritable),
		}
		ambient = linux.CapabilityMask(caps.Ambient)
	}
	now, err := linux.GetCapabilities()
	if err != nil {
		return err
	}
	// The kernel may know less, and a rootless container may have less.
	sets.Permitted &= now.Permitted
	sets.Effective &= sets.Permitted
	sets.Inheritable &= now.Permitted | now.Inheritable
	if err := linux.SetCapabilities(sets); err != nil {
		return err
	}
	return linux.SetAmbient(ambient)
}

// labels names the security labels that the exec will give the process.
func (c *container) labels() error {
	p := c.Spec.Process
	if p.ApparmorProfile != "" {
		err := c.writeAttr("attr/apparmor/exec", "exec "+p.ApparmorProfile)
		if errors.Is(err, os.ErrNotExist) { // Linux before 5.8
			err = c.writeAttr("attr/exec", "exec "+p.ApparmorProfile)
		}
		if err != nil {
			return fmt.Errorf("unable to apply apparmor profile: %w", err)
		}
	}
	if p.SelinuxLabel != "" {
		if err := c.writeAttr("attr/exec", p.SelinuxLabel); err != nil {
			return fmt.Errorf("set SELinux label: %w", err)
		}
	}
	return nil
}

// writeAttr writes to a file of this thread in a procfs that is known to be
// one (CVE-2019-16884, CVE-2025-52881).
func (c *container) writeAttr(name, value string) error {
	if c.proc != nil {
		return c.writeProc("thread-self/"+name, value)
	}
	proc, err := procfs.OpenProcRoot()
	if err != nil {
		return err
	}
	defer proc.Close()
	f, done, err := proc.OpenThreadSelf(name)
	if err != nil {
		return err
	}
	defer done()
	defer f.Close()
	w, err := os.OpenFile(linux.FdPath(f), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = w.WriteString(value)
	return err
}

// environment makes the variables of the process final, and sets those that
// finding the program needs.
func (c *container) environment() {
	p := c.Spec.Process
	p.Env = once(p.Env)
	os.Clearenv()
	for _, kv := range p.Env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			os.Setenv(name, value)
		}
	}
	if p.Env != nil && os.Getenv("HOME") == "" {
		p.Env = append(p.Env, "HOME="+home(p.User.UID))
	}
}

// once leaves of each variable its last value, and no empty HOME, which stands
// for one that is not known.
func once(env []string) []string {
	last := map[string]int{}
	for i, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		last[name] = i
	}
	var kept []string
	if env != nil {
		kept = []string{}
	}
	for i, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); last[name] == i && kv != "HOME=" {
			kept = append(kept, kv)
		}
	}
	return kept
}

// home looks the user's directory up in the container's /etc/passwd, which
// may be anything.
func home(uid uint32) string {
	f, err := os.OpenFile("/etc/passwd", os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "/"
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "/"
	}
	data, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) >= 6 && fields[2] == strconv.FormatUint(uint64(uid), 10) && fields[5] != "" {
			return fields[5]
		}
	}
	return "/"
}
