// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// symfollow is MS_NOSYMFOLLOW of Linux 5.10, which package unix has not for
// every architecture.
const noSymfollow = 0x100

// flags are the options of config.md that are flags of mount(2).
var flags = map[string]struct {
	clear bool
	bits  uintptr
}{
	"acl":           {false, unix.MS_POSIXACL},
	"async":         {true, unix.MS_SYNCHRONOUS},
	"atime":         {true, unix.MS_NOATIME},
	"bind":          {false, unix.MS_BIND},
	"defaults":      {false, 0},
	"dev":           {true, unix.MS_NODEV},
	"diratime":      {true, unix.MS_NODIRATIME},
	"dirsync":       {false, unix.MS_DIRSYNC},
	"exec":          {true, unix.MS_NOEXEC},
	"iversion":      {false, unix.MS_I_VERSION},
	"lazytime":      {false, unix.MS_LAZYTIME},
	"loud":          {true, unix.MS_SILENT},
	"mand":          {false, unix.MS_MANDLOCK},
	"noacl":         {true, unix.MS_POSIXACL},
	"noatime":       {false, unix.MS_NOATIME},
	"nodev":         {false, unix.MS_NODEV},
	"nodiratime":    {false, unix.MS_NODIRATIME},
	"noexec":        {false, unix.MS_NOEXEC},
	"noiversion":    {true, unix.MS_I_VERSION},
	"nolazytime":    {true, unix.MS_LAZYTIME},
	"nomand":        {true, unix.MS_MANDLOCK},
	"norelatime":    {true, unix.MS_RELATIME},
	"nostrictatime": {true, unix.MS_STRICTATIME},
	"nosuid":        {false, unix.MS_NOSUID},
	"nosymfollow":   {false, noSymfollow},
	"rbind":         {false, unix.MS_BIND | unix.MS_REC},
	"relatime":      {false, unix.MS_RELATIME},
	"remount":       {false, unix.MS_REMOUNT},
	"ro":            {false, unix.MS_RDONLY},
	"rw":            {true, unix.MS_RDONLY},
	"silent":        {false, unix.MS_SILENT},
	"strictatime":   {false, unix.MS_STRICTATIME},
	"suid":          {true, unix.MS_NOSUID},
	"symfollow":     {true, noSymfollow},
	"sync":          {false, unix.MS_SYNCHRONOUS},
}

// propagations are the options that say how mounts propagate.
var propagations = map[string]uintptr{
	"private":     unix.MS_PRIVATE,
	"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
	"rshared":     unix.MS_SHARED | unix.MS_REC,
	"rslave":      unix.MS_SLAVE | unix.MS_REC,
	"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
	"shared":      unix.MS_SHARED,
	"slave":       unix.MS_SLAVE,
	"unbindable":  unix.MS_UNBINDABLE,
}

// IsPropagation reports whether name is one of these.
func IsPropagation(name string) bool {
	_, ok := propagations[name]
	return ok
}

// attributes are what mount_setattr(2) calls the flags of a mount.
var attributes = map[uintptr]uint64{
	unix.MS_RDONLY:      unix.MOUNT_ATTR_RDONLY,
	unix.MS_NOSUID:      unix.MOUNT_ATTR_NOSUID,
	unix.MS_NODEV:       unix.MOUNT_ATTR_NODEV,
	unix.MS_NOEXEC:      unix.MOUNT_ATTR_NOEXEC,
	unix.MS_NOATIME:     unix.MOUNT_ATTR_NOATIME,
	unix.MS_STRICTATIME: unix.MOUNT_ATTR_STRICTATIME,
	unix.MS_RELATIME:    unix.MOUNT_ATTR_RELATIME,
	unix.MS_NODIRATIME:  unix.MOUNT_ATTR_NODIRATIME,
	noSymfollow:         unix.MOUNT_ATTR_NOSYMFOLLOW,
}

// perMount are the flags that belong to a mount and not to its file system.
const perMount = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC |
	unix.MS_NOATIME | unix.MS_STRICTATIME | unix.MS_RELATIME | unix.MS_NODIRATIME | noSymfollow

const (
	atimes      = unix.MS_NOATIME | unix.MS_STRICTATIME | unix.MS_RELATIME // of which one holds
	accessTimes = atimes | unix.MS_NODIRATIME
)

// options is the meaning of a list of mount options.
type options struct {
	set, clear  uintptr        // flags of mount(2)
	propagation []uintptr      // in order
	recursive   unix.MountAttr // of the options that begin with r
	data        []string
	copyUp      bool
	idmap       bool
	idmapAll    bool
}

// MountOptions are the names of the options that are not data, sorted.
func MountOptions() []string {
	names := []string{"idmap", "ridmap", "tmpcopyup"}
	for name, f := range flags {
		names = append(names, name)
		if f.bits != 0 && f.bits&^perMount == 0 {
			names = append(names, "r"+name)
		}
	}
	names = slices.AppendSeq(names, maps.Keys(propagations))
	slices.Sort(names)
	return names
}

func parseOptions(list []string) (o options) {
	for _, opt := range list {
		if p, ok := propagations[opt]; ok {
			o.propagation = append(o.propagation, p)
			continue
		}
		if f, ok := flags[opt]; ok {
			o.flag(f.bits, f.clear)
			continue
		}
		base, isR := strings.CutPrefix(opt, "r")
		if f, ok := flags[base]; isR && ok && f.bits != 0 && f.bits&^perMount == 0 {
			o.recurse(f.bits, f.clear)
			continue
		}
		switch opt {
		case "tmpcopyup":
			o.copyUp = true
		case "idmap":
			o.idmap = true
		case "ridmap":
			o.idmap, o.idmapAll = true, true
		default:
			o.data = append(o.data, opt)
		}
	}
	return o
}

func (o *options) flag(bits uintptr, clear bool) {
	if clear {
		o.set &^= bits
		o.clear |= bits
		return
	}
	if bits&atimes != 0 {
		o.set &^= atimes
	}
	o.set |= bits
	o.clear &^= bits
}

func (o *options) recurse(bits uintptr, clear bool) {
	addAttr(&o.recursive, bits, clear)
}

// addAttr adds a flag to a, whose ways to keep access times exclude each other.
func addAttr(a *unix.MountAttr, bits uintptr, clear bool) {
	for ms, attr := range attributes {
		switch {
		case bits&ms == 0:
		case ms&atimes != 0 && !clear:
			a.Attr_clr |= unix.MOUNT_ATTR__ATIME
			a.Attr_set = a.Attr_set&^unix.MOUNT_ATTR__ATIME | attr
		case ms&atimes != 0:
			a.Attr_clr |= unix.MOUNT_ATTR__ATIME
		case clear:
			a.Attr_clr |= attr
			a.Attr_set &^= attr
		default:
			a.Attr_set |= attr
			a.Attr_clr &^= attr
		}
	}
}

// attr is the part of o that mount_setattr takes for one mount.
func (o *options) attr() (a unix.MountAttr) {
	addAttr(&a, o.clear&perMount, true)
	for ms := range attributes {
		if o.set&ms != 0 {
			addAttr(&a, ms, false)
		}
	}
	return a
}

// IsBind says whether options make a mount of any type a bind mount.
func IsBind(fstype string, opts []string) (bind, recursive bool) {
	o := parseOptions(opts)
	return fstype == "bind" || o.set&unix.MS_BIND != 0, o.set&unix.MS_REC != 0
}

// IsMapped says whether options ask for mapped owners, and for those of the
// mounts below too.
func IsMapped(opts []string) (mapped, all bool) {
	o := parseOptions(opts)
	return o.idmap, o.idmapAll
}
