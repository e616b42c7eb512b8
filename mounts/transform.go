// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/internal/mount"
)

// Options that transforms consume.
const (
	optionMkdir = "X-containerd.mkdir."
	optionMkfs  = "X-containerd.mkfs."
	// optionVerity asks for dm-verity, which must not be left out.
	optionVerity = "X-containerd.dmverity"
)

// split takes the transforms off a type, in the order to apply them.
func split(kind string) (transforms []string, plain string) {
	for {
		head, rest, ok := strings.Cut(kind, "/")
		if !ok || head != "format" && head != "mkfs" && head != "mkdir" {
			return transforms, kind
		}
		transforms, kind = append(transforms, head), rest
	}
}

// handled are the types that callers do not mount themselves.
func handled(kind string) bool { return kind == "erofs" }

// firstSystem is the index of the first mount to leave to the caller: after
// every handled one, and after all that a format may refer to.
func firstSystem(mounts []mount.Mount) (first int, needed bool) {
	for i, m := range mounts {
		transforms, plain := split(m.Type)
		needed = needed || len(transforms) > 0
		if handled(plain) {
			first, needed = i+1, true
		} else if slices.Contains(transforms, "format") {
			first = max(first, i)
		}
	}
	return first, needed
}

// transform applies the transforms in the type of a mount.
func (m *Manager) transform(ctx context.Context, mt mount.Mount, active []Active) (mount.Mount, error) {
	transforms, plain := split(mt.Type)
	mt.Type, mt.Options = plain, slices.Clone(mt.Options)
	if i := slices.IndexFunc(mt.Options, func(o string) bool { return strings.HasPrefix(o, optionVerity) }); i >= 0 {
		return mt, fmt.Errorf("option %s, mount without verification: %w", mt.Options[i], errdefs.ErrNotImplemented)
	}
	for _, t := range transforms {
		var err error
		switch t {
		case "format":
			err = format(&mt, active)
		case "mkdir":
			err = m.mkdir(mt.Options)
			mt.Options = without(mt.Options, optionMkdir)
		case "mkfs":
			err = m.mkfs(ctx, mt)
			mt.Options = without(mt.Options, optionMkfs)
		}
		if err != nil {
			return mt, fmt.Errorf("%s of mount type %s: %w", t, plain, err)
		}
	}
	return mt, nil
}

func without(options []string, prefix string) []string {
	return slices.DeleteFunc(options, func(o string) bool { return strings.HasPrefix(o, prefix) })
}

// A placeholder is {{ source i }}, {{ target i }}, {{ mount i }} or
// {{ overlay i j }}, with indices of active mounts.
var placeholder = regexp.MustCompile(`\{\{\s*(source|target|mount|overlay)\s+(\d+)(?:\s+(\d+))?\s*\}\}`)

// format replaces the placeholders in a mount.
func format(mt *mount.Mount, active []Active) (err error) {
	if mt.Source, err = expand(mt.Source, active); err != nil {
		return err
	}
	if mt.Target, err = expand(mt.Target, active); err != nil {
		return err
	}
	for i, o := range mt.Options {
		if mt.Options[i], err = expand(o, active); err != nil {
			return err
		}
	}
	return nil
}

func expand(text string, active []Active) (string, error) {
	var bad error
	out := placeholder.ReplaceAllStringFunc(text, func(p string) string {
		value, err := resolve(placeholder.FindStringSubmatch(p), active)
		if err != nil {
			bad = fmt.Errorf("%s: %w", p, err)
		}
		return value
	})
	if bad == nil && strings.Contains(placeholder.ReplaceAllString(text, ""), "{{") {
		bad = fmt.Errorf("%q: unknown placeholder: %w", text, errdefs.ErrInvalidArgument)
	}
	return out, bad
}

// resolve gives the value of one placeholder: its name and one or two indices.
func resolve(words []string, active []Active) (string, error) {
	index := func(text string) (int, error) {
		i, err := strconv.Atoi(text)
		if err != nil || i >= len(active) {
			return 0, fmt.Errorf("there is no active mount %s: %w", text, errdefs.ErrInvalidArgument)
		}
		return i, nil
	}
	i, err := index(words[2])
	if err != nil {
		return "", err
	}
	if (words[1] == "overlay") != (words[3] != "") {
		return "", fmt.Errorf("wrong number of indices: %w", errdefs.ErrInvalidArgument)
	}
	switch words[1] {
	case "source":
		return active[i].Source, nil
	case "target":
		return active[i].Target, nil
	case "mount":
		return active[i].Point, nil
	}
	j, err := index(words[3])
	if err != nil {
		return "", err
	}
	return strings.Join(layers(active, i, j), ":"), nil
}

// layers are the mount points from i to j, in that direction.
func layers(active []Active, i, j int) []string {
	var points []string
	for _, a := range active[min(i, j) : max(i, j)+1] {
		points = append(points, a.Point)
	}
	if i > j {
		slices.Reverse(points)
	}
	return points
}

// within opens the root that a path is below. Only handles lead on from
// there: what is mounted below a mount point is not ours.
func (m *Manager) within(path string) (root *os.Root, rel string, err error) {
	for _, r := range m.roots {
		rel, err := filepath.Rel(r, path)
		if filepath.IsAbs(path) && err == nil && rel != "." && filepath.IsLocal(rel) {
			root, err := os.OpenRoot(r)
			return root, rel, err
		}
	}
	return nil, "", fmt.Errorf("path %q is in none of %q: %w", path, m.roots, errdefs.ErrNotImplemented)
}

// mkdir makes the directories <path>[:<mode>[:<uid>:<gid>]] of the options.
func (m *Manager) mkdir(options []string) error {
	for _, o := range options {
		spec, ok := strings.CutPrefix(o, optionMkdir+"path=")
		if !ok {
			if strings.HasPrefix(o, optionMkdir) {
				return fmt.Errorf("option %q: %w", o, errdefs.ErrInvalidArgument)
			}
			continue
		}
		d, err := parseDirectory(spec)
		if err != nil {
			return fmt.Errorf("option %q: %w: %w", o, err, errdefs.ErrInvalidArgument)
		}
		if err := m.makeDirectory(d); err != nil {
			return err
		}
	}
	return nil
}

type directory struct {
	path     string
	mode     fs.FileMode
	uid, gid int
}

func parseDirectory(spec string) (d directory, err error) {
	d = directory{mode: 0o700, uid: -1, gid: -1}
	parts := strings.Split(spec, ":")
	d.path = parts[0]
	if len(parts) > 4 || len(parts) == 3 {
		return d, fmt.Errorf("want <path>[:<mode>[:<uid>:<gid>]]")
	}
	if len(parts) > 1 {
		mode, err := strconv.ParseUint(parts[1], 8, 12)
		if err != nil {
			return d, err
		}
		d.mode = fs.FileMode(mode) & fs.ModePerm
	}
	if len(parts) == 4 {
		uid, err := strconv.ParseUint(parts[2], 10, 31)
		if err != nil {
			return d, err
		}
		gid, err := strconv.ParseUint(parts[3], 10, 31)
		if err != nil {
			return d, err
		}
		d.uid, d.gid = int(uid), int(gid)
	}
	return d, nil
}

// makeDirectory leaves a directory that exists as it is.
func (m *Manager) makeDirectory(d directory) error {
	root, rel, err := m.within(d.path)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(rel); err == nil {
		return nil
	}
	if err := root.MkdirAll(rel, d.mode); err != nil {
		return err
	}
	if err := root.Chmod(rel, d.mode); err != nil { // whatever the umask
		return err
	}
	if d.uid < 0 {
		return nil
	}
	return root.Chown(rel, d.uid, d.gid)
}

// mkfs makes an image with an empty file system. One that exists is in use by
// an earlier activation of the same snapshot and stays.
func (m *Manager) mkfs(ctx context.Context, mt mount.Mount) (err error) {
	settings := mkfsSettings(mt.Options)
	args, err := mkfsCommand(settings, mt.Source)
	if err != nil {
		return err
	}
	size, err := ParseSize(settings["size"])
	if err != nil {
		return err
	}
	if size == 0 {
		return fmt.Errorf("file system %s of no size: %w", mt.Source, errdefs.ErrInvalidArgument)
	}
	root, rel, err := m.within(mt.Source)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			root.Remove(rel)
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func mkfsSettings(options []string) map[string]string {
	settings := map[string]string{"fs": "ext4"}
	for _, o := range options {
		if rest, ok := strings.CutPrefix(o, optionMkfs); ok {
			key, value, _ := strings.Cut(rest, "=")
			settings[key] = value
		}
	}
	return settings
}

var uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func mkfsCommand(settings map[string]string, path string) ([]string, error) {
	kind, uuid := settings["fs"], settings["uuid"]
	if uuid != "" && !uuidPattern.MatchString(uuid) {
		return nil, fmt.Errorf("uuid %q: %w", uuid, errdefs.ErrInvalidArgument)
	}
	args := []string{"mkfs." + kind, "-q"}
	switch kind {
	case "ext2", "ext3", "ext4":
		if uuid != "" {
			args = append(args, "-U", uuid)
		}
		args = append(args, "-F")
	case "xfs":
		if uuid != "" {
			args = append(args, "-m", "uuid="+uuid)
		}
	default:
		return nil, fmt.Errorf("file system %q: %w", kind, errdefs.ErrInvalidArgument)
	}
	return append(args, path), nil
}

// ParseSize reads a number of bytes such as 0, 512, 64MiB or 1.5G; the units
// are powers of 1024.
func ParseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGTPbkmgtpi ")
	n, err := strconv.ParseFloat(digits, 64)
	unit := strings.ToLower(strings.TrimSpace(text[len(digits):]))
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	shift, ok := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}[unit]
	n *= float64(int64(1) << shift)
	if err != nil || !ok || !(n >= 0 && n < 1<<62) { // nor is it no number
		return 0, fmt.Errorf("size %q of a file system: %w", text, errdefs.ErrInvalidArgument)
	}
	return int64(n), nil
}
