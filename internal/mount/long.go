// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// mountLong mounts an overlay whose options do not fit into the one page that
// mount(2) takes: the directories are named relative to the one that holds
// them all, on a thread whose working directory is that one. The thread ends
// with its goroutine.
func mountLong(source, target, fstype string, flags uintptr, data []string) error {
	base := commonDir(data)
	if fstype != "overlay" || base == "" {
		return unix.E2BIG
	}
	text := strings.Join(relativeTo(base, data), ",")
	if len(text) >= os.Getpagesize() {
		return unix.E2BIG
	}
	target, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread's directory is its own
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			result <- err
			return
		}
		if err := unix.Chdir(base); err != nil {
			result <- err
			return
		}
		result <- mount2(source, target, fstype, flags, text)
	}()
	return <-result
}

// dirOptions are the overlay options whose values are directories.
var dirOptions = []string{"lowerdir=", "upperdir=", "workdir="}

func directories(option string) (name string, dirs []string) {
	for _, name := range dirOptions {
		if v, ok := strings.CutPrefix(option, name); ok {
			return name, strings.Split(v, ":")
		}
	}
	return "", nil
}

// commonDir is the deepest directory above every directory of an overlay, ""
// if there is none.
func commonDir(data []string) string {
	common := ""
	for _, o := range data {
		_, dirs := directories(o)
		for _, d := range dirs {
			if !filepath.IsAbs(d) {
				return ""
			}
			if common == "" {
				common = filepath.Dir(d)
			}
			for common != "/" && !strings.HasPrefix(d, common+"/") {
				common = filepath.Dir(common)
			}
		}
	}
	return common
}

func relativeTo(base string, data []string) []string {
	var out []string
	for _, o := range data {
		name, dirs := directories(o)
		if name == "" {
			out = append(out, o)
			continue
		}
		for i, d := range dirs {
			dirs[i] = strings.TrimPrefix(strings.TrimPrefix(d, base), "/")
		}
		out = append(out, name+strings.Join(dirs, ":"))
	}
	return out
}
