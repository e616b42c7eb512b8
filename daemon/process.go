// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/logline"
	"slipway/runtime/cgroup"
)

// adjustSelf gives the process the OOM score and the cgroup of the
// configuration.
func adjustSelf(c *Config) error {
	if c.OOMScore != 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(c.OOMScore)), 0); err != nil {
			slog.Error("OOM score is not changed", "score", c.OOMScore, "error", err)
		}
	}
	if c.Cgroup.Path == "" {
		return nil
	}
	if err := joinCgroup(os.Getpid(), "/sys/fs/cgroup", c.Cgroup.Path); err != nil {
		return fmt.Errorf("cgroup %s: %w", c.Cgroup.Path, err)
	}
	return nil
}

// joinCgroup moves a process into a cgroup, which it makes: into that of the
// unified hierarchy, or into that of each controller's.
func joinCgroup(pid int, root, path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: root, Err: err}
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		dir := filepath.Join(root, filepath.Join("/", path))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return enterCgroup(pid, dir)
	}
	hierarchies, err := filepath.Glob(filepath.Join(root, "*", "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		h = filepath.Dir(h)
		// What others left in the tmpfs above the hierarchies is none.
		if err := unix.Statfs(h, &fs); err != nil || fs.Type != unix.CGROUP_SUPER_MAGIC {
			continue
		}
		dir := filepath.Join(h, filepath.Join("/", path))
		if err := cgroup.MakeV1(filepath.Base(h), dir); err != nil {
			return err
		}
		if err := enterCgroup(pid, dir); err != nil {
			return err
		}
	}
	return nil
}

func enterCgroup(pid int, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(strconv.Itoa(pid))
	return err
}

// level is that of the log; the shims log as much.
func (d *Daemon) level() slog.Level {
	if l, err := logline.ParseLevel(d.config.Debug.Level); err == nil {
		return l
	}
	return slog.LevelInfo
}

// notify tells systemd, if it is what started the process; see sd_notify(3).
func (d *Daemon) notify(state string) {
	sent, err := notifySystemd(os.Getenv("NOTIFY_SOCKET"), state)
	if err != nil {
		d.log.Warn("sd notification", "state", state, "error", err)
		return
	}
	d.log.Debug("sd notification", "notified", sent, "state", state)
}

func notifySystemd(socket, state string) (bool, error) {
	if socket == "" {
		return false, nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"}) // a leading @ is an abstract name
	if err != nil {
		return false, err
	}
	_, err = c.Write([]byte(state))
	return err == nil, errors.Join(err, c.Close())
}

// DumpStacks logs what every goroutine does, and writes it to a file of the
// temporary directory.
func DumpStacks(log *slog.Logger) {
	buf := make([]byte, 32<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	log.Info("=== BEGIN goroutine stack dump ===\n" + strings.TrimRight(string(buf), "\n") + "\n=== END goroutine stack dump ===")
	path := filepath.Join(os.TempDir(), fmt.Sprintf("containerd.%d.stacks.log", os.Getpid()))
	if err := os.WriteFile(path, buf, 0o600); err != nil {
		log.Error("goroutine stack dump", "error", err)
		return
	}
	log.Info("goroutine stack dump written to " + path)
}
