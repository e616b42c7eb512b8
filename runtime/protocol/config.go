// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Descriptors that the init finds at its start. The standard ones are what
// the user's process gets.
const Socket = 3

// Names of the descriptors of a config packet. A number follows the one that
// ends in a colon.
const (
	FileConfig = "config" // the Init in JSON
	FileFifo   = "fifo"   // O_PATH of the FIFO to wait at
	FileRootfs = "rootfs" // a detached mount
	FileRoot   = "root"   // the root of a container without a mount namespace, to join
	FileExtra  = "extra:" // to pass on as 3 + number
)

// Init is what an init becomes.
type Init struct {
	ID     string
	Bundle string
	// Join says that the init enters a running container: there is nothing
	// to set up but the process itself.
	Join bool
	// Spec is the configuration; of a joining init only Process is set, and
	// what of Linux is a process's own.
	Spec   *Spec
	Rootfs string // absolute path of root.path

	NewUser      bool // in a user namespace that is not the runtime's
	NewCgroup    bool
	NoPivot      bool
	Rootless     bool
	NoNewKeyring bool
	PlainOutput  bool // the terminal leaves line feeds as they are
	AskHooks     bool // there are prestart or createRuntime hooks

	// Cgroups are the host's mounted hierarchies with the container's
	// directory in each, by the name under which a container sees it.
	Cgroups map[string]string
	// CgroupUnified says that there is only the hierarchy of version 2.
	CgroupUnified bool
	Seccomp       *Seccomp
}

// Spec is the part of a runtime spec that an init needs. The rest is left out
// of the type and not just of the value: package json takes a millisecond to
// prepare for all that a specs.Spec can hold.
type Spec struct {
	Version     string
	Process     *specs.Process
	Root        *specs.Root
	Hostname    string
	Domainname  string
	Mounts      []specs.Mount
	Hooks       *HookLists
	Annotations map[string]string
	Linux       *Linux
}

// HookLists are the hooks that the init runs.
type HookLists struct {
	CreateContainer []specs.Hook
	StartContainer  []specs.Hook
}

// Linux is the part of specs.Linux that an init needs.
type Linux struct {
	Sysctl            map[string]string
	Namespaces        []specs.LinuxNamespace
	Devices           []specs.LinuxDevice
	RootfsPropagation string
	MaskedPaths       []string
	ReadonlyPaths     []string
	MountLabel        string
	MemoryPolicy      *specs.LinuxMemoryPolicy
	Personality       *specs.LinuxPersonality
	Cpus              string // that the container is limited to
}

// NewSpec takes out of s what an init needs.
func NewSpec(s *specs.Spec) *Spec {
	out := &Spec{
		Version: s.Version, Process: s.Process, Root: s.Root, Hostname: s.Hostname, Domainname: s.Domainname,
		Mounts: s.Mounts, Annotations: s.Annotations,
	}
	if s.Hooks != nil {
		out.Hooks = &HookLists{s.Hooks.CreateContainer, s.Hooks.StartContainer}
	}
	if l := s.Linux; l != nil {
		out.Linux = &Linux{
			Sysctl: l.Sysctl, Namespaces: l.Namespaces, Devices: l.Devices, RootfsPropagation: l.RootfsPropagation,
			MaskedPaths: l.MaskedPaths, ReadonlyPaths: l.ReadonlyPaths, MountLabel: l.MountLabel,
			MemoryPolicy: l.MemoryPolicy, Personality: l.Personality,
		}
	}
	if l := s.Linux; l != nil && l.Resources != nil && l.Resources.CPU != nil {
		out.Linux.Cpus = l.Resources.CPU.Cpus
	}
	return out
}

// Seccomp is a compiled filter.
type Seccomp struct {
	Filter []byte // struct sock_filter
	Flags  uint
	Listen bool
}

// LoadFlags are all flags that the filter is loaded with.
func (s *Seccomp) LoadFlags() uint {
	if s.Listen {
		return s.Flags | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return s.Flags
}

// SysctlPath is the path of a parameter below /proc/sys. The first separator
// in a key tells which of sysctl(8)'s two notations it has; in the one with
// slashes, dots are part of names.
func SysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}
