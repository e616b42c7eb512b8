// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// flag is what an fstab option does to the flags of mount(2).
type flag struct {
	clear bool
	bits  uintptr
}

// flags are the options that are not data, see mount(8).
var flags = map[string]flag{
	"async":         {true, unix.MS_SYNCHRONOUS},
	"atime":         {true, unix.MS_NOATIME},
	"bind":          {false, unix.MS_BIND},
	"defaults":      {false, 0},
	"dev":           {true, unix.MS_NODEV},
	"diratime":      {true, unix.MS_NODIRATIME},
	"dirsync":       {false, unix.MS_DIRSYNC},
	"exec":          {true, unix.MS_NOEXEC},
	"mand":          {false, unix.MS_MANDLOCK},
	"noatime":       {false, unix.MS_NOATIME},
	"nodev":         {false, unix.MS_NODEV},
	"nodiratime":    {false, unix.MS_NODIRATIME},
	"noexec":        {false, unix.MS_NOEXEC},
	"nomand":        {true, unix.MS_MANDLOCK},
	"norelatime":    {true, unix.MS_RELATIME},
	"nostrictatime": {true, unix.MS_STRICTATIME},
	"nosuid":        {false, unix.MS_NOSUID},
	"rbind":         {false, unix.MS_BIND | unix.MS_REC},
	"relatime":      {false, unix.MS_RELATIME},
	"remount":       {false, unix.MS_REMOUNT},
	"ro":            {false, unix.MS_RDONLY},
	"rw":            {true, unix.MS_RDONLY},
	"strictatime":   {false, unix.MS_STRICTATIME},
	"suid":          {true, unix.MS_NOSUID},
	"sync":          {false, unix.MS_SYNCHRONOUS},
}

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

// options is the meaning of a list of fstab options.
type options struct {
	flags       uintptr
	propagation uintptr
	data        []string
	idmaps      []string // uidmap=, gidmap=
	loop        bool     // the source is a file with a file system
}

func parseOptions(list []string) (o options) {
	for _, opt := range list {
		f, isFlag := flags[opt]
		p, isPropagation := propagations[opt]
		switch {
		case isFlag && f.clear:
			o.flags &^= f.bits
		case isFlag:
			o.flags |= f.bits
		case isPropagation:
			o.propagation |= p
		case opt == "loop":
			o.loop = true
		case strings.HasPrefix(opt, "X-containerd."): // for the daemon, not the kernel
		case strings.HasPrefix(opt, "uidmap="), strings.HasPrefix(opt, "gidmap="):
			o.idmaps = append(o.idmaps, opt)
		default:
			o.data = append(o.data, opt)
		}
	}
	return o
}
