// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"maps"
	"slices"
)

// logEverything is CRIU's log level of messages for debugging, without which
// nobody finds out why an image does not come back.
const logEverything = 4

// encode writes criu_opts; the numbers are rpc.proto's.
func (o *Options) encode(kind Kind) fields {
	var f fields
	f.number(1, uint64(o.imagesFd))
	if o.Pid != 0 {
		f.number(2, uint64(o.Pid))
	}
	for n, v := range map[number]bool{
		3: o.LeaveRunning, 4: o.ExternalUnix, 5: o.TCPEstablished, 6: kind == Restore /* evasive devices */, 7: o.ShellJob, 8: o.FileLocks,
		12: true /* notify */, 16: o.AutoDedup, 18: o.LinkRemap, 24: true /* manage cgroups */, 26: kind == Restore, /* as a sibling */
		46: o.TCPSkipInFlight, 48: o.LazyPages, 50: true, /* hand over the master of a terminal */
	} {
		f.flag(n, v)
	}
	f.number(9, logEverything)
	f.text(10, logName(kind))
	if o.PageServer != "" {
		var server fields
		server.text(1, o.PageServer)
		server.number(2, uint64(o.PageServerPort))
		f.message(11, server)
	}
	f.text(13, o.Root)
	if o.ParentImages != "" {
		f.text(14, o.ParentImages)
		f.flag(15, true) // track memory
	}
	f.number(17, uint64(o.workFd))
	f.number(34, modes[o.ManageCgroups])
	f.number(38, uint64(o.EmptyNamespaces))
	f.text(44, o.FreezeCgroup)
	if o.StatusFile != nil {
		f.number(49, uint64(o.StatusFile.Fd()))
	}
	f.text(51, o.ConfigFile)
	f.text(53, o.LSMProfile)
	f.text(63, o.LSMMountContext)
	o.encodeLists(&f)
	return f
}

func (o *Options) encodeLists(f *fields) {
	for _, m := range o.Mounts {
		f.pair(23, m[0], m[1])
	}
	for _, name := range slices.Sorted(maps.Keys(o.CgroupRoots)) {
		f.pair(25, name, o.CgroupRoots[name])
	}
	for _, i := range o.Inherit {
		var m fields
		m.text(1, i.Name)
		m.number(2, uint64(i.Fd))
		f.message(27, m)
	}
	for _, e := range o.External {
		f.message(37, fields(e))
	}
	for _, ns := range o.JoinNS {
		f.pair(39, ns[0], ns[1])
	}
}

// A response is criu_resp.
type response struct {
	kind         Kind
	success      bool
	script, text string
	pid, errno   int
}

func parseResponse(data []byte) (r response, err error) {
	err = eachField(data, func(n number, v uint64, b []byte) error {
		switch n {
		case 1:
			r.kind = Kind(v)
		case 2:
			r.success = v != 0
		case 5:
			return eachField(b, func(n number, v uint64, b []byte) error {
				switch n {
				case 1:
					r.script = string(b)
				case 2:
					r.pid = int(int32(v))
				}
				return nil
			})
		case 7:
			r.errno = int(int32(v))
		case 9:
			r.text = string(b)
		}
		return nil
	})
	return r, err
}
