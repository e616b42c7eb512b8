// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A unit is a container's group as systemd knows it: a transient scope below a
// slice, or a slice (systemd.scope(5), org.freedesktop.systemd1(5)).
type unit struct {
	name, slice string
	id          string
	path        string // of the group below the mount point
	user        bool   // the user's own systemd
	properties  map[string]string
}

// newUnit reads "slice:prefix:name".
func newUnit(c Config) (*unit, error) {
	u := &unit{id: c.ID, slice: "system.slice", user: c.Rootless, properties: c.Properties}
	if u.user {
		u.slice = "user.slice"
	}
	prefix, name := "runc", c.ID
	if c.Path != "" {
		parts := strings.Split(c.Path, ":")
		if len(parts) != 3 {
			return nil, fmt.Errorf("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead: %w", c.Path, errdefs.ErrInvalidArgument)
		}
		if parts[0] != "" {
			u.slice = parts[0]
		}
		prefix, name = parts[1], parts[2]
	}
	switch {
	case strings.HasSuffix(name, ".slice"):
		u.name = name
	case prefix != "":
		u.name = prefix + "-" + name + ".scope"
	default:
		u.name = name + ".scope"
	}
	if strings.Contains(u.name, "/") {
		return nil, fmt.Errorf("systemd unit %q has a slash: %w", u.name, errdefs.ErrInvalidArgument)
	}
	return u, nil
}

func (u *unit) isSlice() bool { return strings.HasSuffix(u.name, ".slice") }

// place finds the unit's group: every dash of a slice's name is a level above
// it (systemd.slice(5)).
func (u *unit) place() error {
	above, err := expandSlice(u.slice)
	if err != nil {
		return err
	}
	u.path = path.Join("/", above, u.name)
	if u.isSlice() {
		if u.path, err = expandSlice(u.name); err != nil {
			return err
		}
	}
	if !u.user {
		return nil
	}
	return u.call(func(b *bus) error {
		root, err := b.property("ControlGroup")
		u.path = path.Join("/", root, u.path)
		return err
	})
}

func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || strings.Contains(name, "/") || name == "" {
		return "", fmt.Errorf("invalid slice name %q: %w", slice, errdefs.ErrInvalidArgument)
	}
	if name == "-" {
		return "/", nil
	}
	dir, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("invalid slice name %q: %w", slice, errdefs.ErrInvalidArgument)
		}
		dir = path.Join(dir, prefix+part+".slice")
		prefix += part + "-"
	}
	return dir, nil
}

// start has systemd make the unit around pid.
func (u *unit) start(pid int, v2 bool, r *specs.LinuxResources) error {
	if pid == 0 && !u.isSlice() {
		return fmt.Errorf("systemd makes no scope %s without a process: %w", u.name, errdefs.ErrFailedPrecondition)
	}
	return u.call(func(b *bus) error {
		properties, err := u.initial(b, pid, v2, r)
		if err != nil {
			return err
		}
		err = b.job("StartTransientUnit", u.name, "replace", properties, []auxiliary{})
		if isBusError(err, "org.freedesktop.systemd1.UnitExists") {
			if u.isSlice() {
				return nil
			}
			// What is left of an earlier container that failed.
			if err := b.manager("ResetFailedUnit", u.name); err != nil {
				return err
			}
			err = b.job("StartTransientUnit", u.name, "replace", properties, []auxiliary{})
		}
		return err
	})
}

// initial are the properties of a new unit.
func (u *unit) initial(b *bus, pid int, v2 bool, r *specs.LinuxResources) ([]property, error) {
	p := []property{prop("Description", "container "+u.id)}
	if u.isSlice() {
		p = append(p, prop("Wants", []string{u.slice}))
	} else {
		p = append(p, prop("Slice", u.slice), prop("Delegate", true))
	}
	if pid != 0 {
		p = append(p, prop("PIDs", []uint32{uint32(pid)}))
	}
	io := "BlockIOAccounting"
	if v2 {
		io = "IOAccounting"
	}
	p = append(p, prop("MemoryAccounting", true), prop("CPUAccounting", true), prop(io, true), prop("TasksAccounting", true),
		prop("DefaultDependencies", false))
	more, err := u.extra()
	if err != nil {
		return nil, err
	}
	limits, err := unitLimits(b, v2, r)
	if err != nil {
		return nil, err
	}
	return append(append(p, limits...), more...), nil
}

// extra are the properties that the container's annotations ask for.
func (u *unit) extra() ([]property, error) {
	var p []property
	for _, name := range slices.Sorted(maps.Keys(u.properties)) {
		text := u.properties[name]
		v, err := parseVariant(text)
		// systemd names times in seconds and takes microseconds.
		base, seconds := strings.CutSuffix(name, "Sec")
		if seconds && err == nil {
			name = base + "USec"
			v, err = microseconds(v)
		}
		if err != nil {
			return nil, fmt.Errorf("systemd property %s=%s: %w", name, text, err)
		}
		p = append(p, prop(name, v))
	}
	return p, nil
}

func microseconds(v any) (any, error) {
	switch n := v.(type) {
	case float64:
		return uint64(n * 1e6), nil
	case int32:
		return uint64(n) * 1e6, nil
	case int64:
		return uint64(n) * 1e6, nil
	case uint32:
		return uint64(n) * 1e6, nil
	case uint64:
		return n * 1e6, nil
	}
	return nil, fmt.Errorf("not a number of seconds: %w", errdefs.ErrInvalidArgument)
}

// set changes the limits of the unit, so that systemd does not put its own
// idea of them back.
func (u *unit) set(v2 bool, r *specs.LinuxResources) error {
	return u.call(func(b *bus) error {
		p, err := unitLimits(b, v2, r)
		if err != nil || len(p) == 0 {
			return err
		}
		return b.manager("SetUnitProperties", u.name, true, p)
	})
}

// stop removes the unit. One that systemd does not know is gone already.
func (u *unit) stop() error {
	return u.call(func(b *bus) error {
		err := b.job("StopUnit", u.name, "replace")
		// A failed unit is kept until this.
		_ = b.manager("ResetFailedUnit", u.name)
		if isBusError(err, "org.freedesktop.systemd1.NoSuchUnit") {
			return nil
		}
		return err
	})
}

// call speaks to systemd about the unit.
func (u *unit) call(do func(*bus) error) error {
	b, err := dial(u.user)
	if err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	defer b.socket.Close()
	if err := do(b); err != nil {
		return fmt.Errorf("systemd unit %s: %w", u.name, err)
	}
	return nil
}

// dial connects to systemd itself where the caller may, and otherwise through
// the message bus.
func dial(user bool) (*bus, error) {
	private, shared := "/run/systemd/private", "/run/dbus/system_bus_socket"
	if user {
		dir := os.Getenv("XDG_RUNTIME_DIR")
		private, shared = dir+"/systemd/private", dir+"/bus"
		if path, ok := strings.CutPrefix(os.Getenv("DBUS_SESSION_BUS_ADDRESS"), "unix:path="); ok {
			shared, _, _ = strings.Cut(path, ",")
		}
	}
	direct, err := dialBus(private)
	if err == nil {
		return direct, nil
	}
	b, err2 := dialBus(shared)
	if err2 != nil {
		return nil, errors.Join(err, err2)
	}
	b.shared = true
	if _, err := b.call(messageBus, "Hello"); err != nil {
		b.socket.Close()
		return nil, fmt.Errorf("%s: %w", shared, err)
	}
	return b, nil
}

// Objects that are called.
var (
	messageBus     = destination{"org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"}
	systemdManager = destination{"org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"}
	systemdValues  = destination{"org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.DBus.Properties"}
)

// manager calls a method of systemd without a result.
func (b *bus) manager(method string, args ...any) error {
	_, err := b.call(systemdManager, method, args...)
	return err
}

// property reads a text that systemd says of itself.
func (b *bus) property(name string) (string, error) {
	m, err := b.call(systemdValues, "Get", systemdManager.iface, name)
	if err != nil {
		return "", fmt.Errorf("property %s: %w", name, err)
	}
	d := m.body()
	if kind := d.signature(); kind != "s" {
		return "", fmt.Errorf("property %s has the type %q: %w", name, kind, errdefs.ErrNotImplemented)
	}
	return d.string(), d.err
}

// job calls a method that starts a job, and waits for its end. systemd sends
// signals to its own connections unasked, and through the message bus to those
// that have subscribed.
func (b *bus) job(method string, args ...any) error {
	if b.shared {
		rule := "type='signal',interface='" + systemdManager.iface + "',member='JobRemoved'"
		if _, err := b.call(messageBus, "AddMatch", rule); err != nil {
			return err
		}
		if err := b.manager("Subscribe"); err != nil && !isBusError(err, "org.freedesktop.systemd1.AlreadySubscribed") {
			return err
		}
	}
	m, err := b.call(systemdManager, method, args...)
	if err != nil {
		return err
	}
	job := m.body().string()
	for {
		if result, ended := b.jobs[job]; ended && result == "done" {
			return nil
		} else if ended {
			return fmt.Errorf("%s: the job ended as %s: %w", method, result, errdefs.ErrFailedPrecondition)
		}
		if _, err := b.read(); err != nil {
			return fmt.Errorf("%s: wait for the job: %w", method, err)
		}
	}
}
