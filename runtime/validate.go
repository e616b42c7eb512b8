// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/linux"
	"slipway/runtime/mempolicy"
	"slipway/runtime/netdev"
	"slipway/runtime/protocol"
	"slipway/runtime/rdt"
	"slipway/runtime/rootfs"
)

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// CheckID says whether id can name a container.
func CheckID(id string) error {
	if id == "" {
		return invalid("container id cannot be empty")
	}
	if id == "." || id == ".." {
		return invalid("invalid container ID %q", id)
	}
	for _, r := range id {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r)) {
			return invalid("invalid container ID format: %q", id)
		}
	}
	return nil
}

// validate refuses what cannot become a container, before anything is made,
// and fills in what the spec leaves out.
func validate(c *Config) error {
	if err := CheckID(c.ID); err != nil {
		return err
	}
	if !filepath.IsAbs(c.Bundle) || c.Root == "" {
		return invalid("the bundle and the root directory must be absolute")
	}
	s := c.Spec
	switch {
	case s == nil || s.Process == nil:
		return invalid("process property must not be empty")
	case s.Root == nil:
		return invalid("root must be specified")
	case s.Linux == nil:
		return invalid("linux property must not be empty")
	case s.Version == "":
		return invalid("ociVersion must be specified")
	}
	if major, _, _ := strings.Cut(s.Version, "."); major != "1" {
		return invalid("ociVersion %q is not supported", s.Version)
	}
	checks := []func(*Config) error{checkRoot, checkNamespaces, checkMappings, checkMounts, checkSysctls, checkDevices}
	for _, check := range checks {
		if err := check(c); err != nil {
			return err
		}
	}
	return checkProcess(s.Process)
}

// checkProcess refuses processes that could not be started.
func checkProcess(p *specs.Process) error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return invalid("args must not be empty")
	}
	if p.Cwd == "" {
		return invalid("Cwd property must not be empty")
	}
	if !filepath.IsAbs(p.Cwd) {
		return invalid("Cwd must be an absolute path")
	}
	for _, s := range append(append([]string{}, p.Args...), p.Env...) {
		if strings.IndexByte(s, 0) >= 0 {
			return invalid("process: %q holds a NUL", s)
		}
	}
	for _, kv := range p.Env {
		switch strings.IndexByte(kv, '=') {
		case -1:
			return invalid("invalid environment variable: missing '=' in %q", kv)
		case 0:
			return invalid("invalid environment variable: name cannot be empty in %q", kv)
		}
	}
	for _, l := range p.Rlimits {
		if _, ok := linux.Rlimits[l.Type]; !ok {
			return invalid("invalid rlimit type %q", l.Type)
		}
		if l.Soft > l.Hard {
			return invalid("%s: soft limit %d is above the hard limit %d", l.Type, l.Soft, l.Hard)
		}
	}
	return nil
}

func checkRoot(c *Config) error {
	root := rootfsPath(c)
	st, err := os.Stat(root)
	if errors.Is(err, os.ErrNotExist) {
		return invalid("rootfs (%s) does not exist", root)
	}
	if err == nil && !st.IsDir() {
		return invalid("rootfs (%s) is not a directory", root)
	}
	if l := c.Spec.Linux; l != nil && l.RootfsPropagation != "" && !rootfs.IsPropagation(l.RootfsPropagation) {
		return invalid("rootfsPropagation=%s is not supported", l.RootfsPropagation)
	}
	return nil
}

// rootfsPath is the root file system's place on the host.
func rootfsPath(c *Config) string {
	if filepath.IsAbs(c.Spec.Root.Path) {
		return filepath.Clean(c.Spec.Root.Path)
	}
	return filepath.Join(c.Bundle, c.Spec.Root.Path)
}

func findNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) *specs.LinuxNamespace {
	if s.Linux == nil {
		return nil
	}
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == kind {
			return &s.Linux.Namespaces[i]
		}
	}
	return nil
}

func isNew(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	ns := findNamespace(s, kind)
	return ns != nil && ns.Path == ""
}

func checkNamespaces(c *Config) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range c.Spec.Linux.Namespaces {
		known := false
		for _, k := range kinds {
			known = known || k.spec == ns.Type
		}
		if !known {
			return invalid("namespace %q does not exist", ns.Type)
		}
		if seen[ns.Type] {
			return invalid("malformed spec file: duplicated ns %q", ns.Type)
		}
		seen[ns.Type] = true
	}
	if c.Spec.Hostname != "" && !seen[specs.UTSNamespace] {
		return invalid("unable to set hostname without a private UTS namespace")
	}
	if c.Spec.Domainname != "" && !seen[specs.UTSNamespace] {
		return invalid("unable to set domainname without a private UTS namespace")
	}
	if len(c.Spec.Linux.TimeOffsets) > 0 && !isNew(c.Spec, specs.TimeNamespace) {
		return invalid("time namespace offsets need a new time namespace")
	}
	masks := len(c.Spec.Linux.MaskedPaths) > 0 || len(c.Spec.Linux.ReadonlyPaths) > 0
	if masks && !seen[specs.MountNamespace] {
		return invalid("unable to restrict sys entries without a private MNT namespace")
	}
	return nil
}

func checkMappings(c *Config) error {
	l := c.Spec.Linux
	user := findNamespace(c.Spec, specs.UserNamespace)
	mapped := len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0
	if user == nil && mapped {
		return invalid("user namespace mappings specified, but user namespace isn't enabled in the config")
	}
	if user != nil && user.Path == "" && (len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0) {
		return invalid("a new user namespace needs uidMappings and gidMappings")
	}
	return nil
}

func checkMounts(c *Config) error {
	for i := range c.Spec.Mounts {
		m := &c.Spec.Mounts[i]
		if m.Destination == "" {
			return invalid("mount %d has no destination", i)
		}
		if !filepath.IsAbs(m.Destination) { // runc takes it as below the root
			m.Destination = filepath.Join("/", m.Destination)
		}
		if (len(m.UIDMappings) == 0) != (len(m.GIDMappings) == 0) {
			return invalid("mount %s: idmapped mounts need both uidMappings and gidMappings", m.Destination)
		}
		bind, _ := rootfs.IsBind(m.Type, m.Options)
		mapped, _ := rootfs.IsMapped(m.Options)
		if bind && m.Source != "" && !filepath.IsAbs(m.Source) { // of whatever directory a process is in then
			m.Source = filepath.Join(c.Bundle, m.Source)
		}
		if (mapped || len(m.UIDMappings) > 0) && !bind {
			return invalid("mount %s: only bind mounts can have mapped owners", m.Destination)
		}
	}
	return nil
}

// ipcSysctls are the parameters that an IPC namespace holds.
var ipcSysctls = map[string]bool{
	"kernel/msgmax": true, "kernel/msgmnb": true, "kernel/msgmni": true, "kernel/sem": true, "kernel/shmall": true,
	"kernel/shmmax": true, "kernel/shmmni": true, "kernel/shm_rmid_forced": true,
}

// checkSysctls refuses parameters that are the whole machine's.
func checkSysctls(c *Config) error {
	has := func(kind specs.LinuxNamespaceType) bool {
		ns := findNamespace(c.Spec, kind)
		return ns != nil && !isOwn(ns, kind)
	}
	for key := range c.Spec.Linux.Sysctl {
		name := protocol.SysctlPath(key)
		if name != filepath.Clean(name) || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") {
			return invalid("sysctl %q is not a parameter", key)
		}
		var kind specs.LinuxNamespaceType
		switch {
		case ipcSysctls[name] || strings.HasPrefix(name, "fs/mqueue/"):
			kind = specs.IPCNamespace
		case strings.HasPrefix(name, "net/"):
			kind = specs.NetworkNamespace
		case name == "kernel/domainname":
			kind = specs.UTSNamespace
		case name == "kernel/hostname":
			return invalid("sysctl %q is not allowed: use hostname", key)
		case strings.HasPrefix(name, "user/"):
			kind = specs.UserNamespace
		default:
			return invalid("sysctl %q is not in a separate kernel namespace", key)
		}
		if !has(kind) {
			return invalid("sysctl %q is not allowed as it would affect the host: no private %s namespace", key, kind)
		}
	}
	return nil
}

// isOwn says whether ns is the namespace of this process.
func isOwn(ns *specs.LinuxNamespace, kind specs.LinuxNamespaceType) bool {
	if ns.Path == "" {
		return false
	}
	for _, k := range kinds {
		if k.spec == kind {
			theirs, err := os.Stat(ns.Path)
			own, err2 := os.Stat("/proc/self/ns/" + k.file)
			return err != nil || err2 != nil || os.SameFile(theirs, own)
		}
	}
	return true
}

// checkDevices checks what the container wants of the host's processor, memory
// and network devices.
func checkDevices(c *Config) error {
	l := c.Spec.Linux
	if err := rdt.Check(l.IntelRdt); err != nil {
		return err
	}
	if l.MemoryPolicy != nil {
		if _, _, err := mempolicy.Parse(l.MemoryPolicy); err != nil {
			return err
		}
	}
	if ns := findNamespace(c.Spec, specs.NetworkNamespace); len(l.NetDevices) > 0 && (ns == nil || isOwn(ns, specs.NetworkNamespace)) {
		return invalid("unable to move network devices without a private network namespace")
	}
	return netdev.Check(l.NetDevices)
}
