// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/internal/plainjson"
)

// The files of a state directory.
const (
	stateFile = "state.json"
	fifoFile  = "exec.fifo" // there until the container is started
)

// record is the state file. Its form is the one that runc's libcontainer
// gives its State, as far as runc's commands need it to handle a container
// that this package made, and this package one of runc's.
type record struct {
	ID             string            `json:"id"`
	Pid            int               `json:"init_process_pid"`
	StartTime      uint64            `json:"init_process_start"` // field 22 of proc_pid_stat(5)
	Created        time.Time         `json:"created"`
	Config         recordConfig      `json:"config"`
	Rootless       bool              `json:"rootless"`
	CgroupPaths    map[string]string `json:"cgroup_paths"`
	NamespacePaths map[string]string `json:"namespace_paths"`
	Descriptors    []string          `json:"external_descriptors,omitempty"`
	IntelRdtPath   string            `json:"intel_rdt_path,omitempty"`
}

type recordConfig struct {
	NoPivotRoot     bool                `json:"no_pivot_root"`
	Rootfs          string              `json:"rootfs"`
	Readonlyfs      bool                `json:"readonlyfs"`
	Hostname        string              `json:"hostname"`
	Namespaces      []recordNamespace   `json:"namespaces"`
	Capabilities    map[string][]string `json:"capabilities,omitempty"`
	Cgroups         recordCgroup        `json:"cgroups"`
	UIDMappings     []recordMapping     `json:"uid_mappings"`
	GIDMappings     []recordMapping     `json:"gid_mappings"`
	NoNewPrivileges bool                `json:"no_new_privileges"`
	Hooks           map[string][]hooked `json:"Hooks"`
	Version         string              `json:"version"`
	Labels          []string            `json:"labels"`
	NoNewKeyring    bool                `json:"no_new_keyring"`
	RootlessEUID    bool                `json:"rootless_euid,omitempty"`
	RootlessCgroups bool                `json:"rootless_cgroups,omitempty"`
}

type recordNamespace struct {
	Type string `json:"type"`
	Path string `json:"path"`
}

type recordMapping struct {
	ContainerID int64 `json:"container_id"`
	HostID      int64 `json:"host_id"`
	Size        int64 `json:"size"`
}

// recordCgroup names the groups. Memory makes runc find the limits of the
// container present, which its managers insist on.
type recordCgroup struct {
	Name     string `json:"name"`
	Path     string `json:"path"`
	Memory   int64  `json:"memory"`
	Systemd  bool   `json:"Systemd"`
	Rootless bool   `json:"Rootless"`
	Parent   string `json:"parent,omitempty"`
	Prefix   string `json:"scope_prefix,omitempty"`
}

// hooked is a hook as libcontainer writes it: the timeout is in nanoseconds.
type hooked struct {
	Path    string         `json:"path"`
	Args    []string       `json:"args"`
	Env     []string       `json:"env"`
	Dir     string         `json:"dir"`
	Timeout *time.Duration `json:"timeout"`
}

// kinds are the namespaces in the order in which they are joined; the user
// namespace comes first, as it decides what may be done to the others.
var kinds = []struct {
	spec   specs.LinuxNamespaceType
	record string
	file   string // below /proc/<pid>/ns
	flag   uintptr
}{
	{specs.UserNamespace, "NEWUSER", "user", unix.CLONE_NEWUSER},
	{specs.PIDNamespace, "NEWPID", "pid", unix.CLONE_NEWPID},
	{specs.NetworkNamespace, "NEWNET", "net", unix.CLONE_NEWNET},
	{specs.IPCNamespace, "NEWIPC", "ipc", unix.CLONE_NEWIPC},
	{specs.UTSNamespace, "NEWUTS", "uts", unix.CLONE_NEWUTS},
	{specs.CgroupNamespace, "NEWCGROUP", "cgroup", unix.CLONE_NEWCGROUP},
	{specs.TimeNamespace, "NEWTIME", "time", unix.CLONE_NEWTIME},
	{specs.MountNamespace, "NEWNS", "mnt", unix.CLONE_NEWNS},
}

// newRecord is the record of a container whose init is not there yet.
func newRecord(c *Config) record {
	s := c.Spec
	r := record{ID: c.ID, Created: time.Now().UTC(), Rootless: c.Rootless}
	r.Config = recordConfig{
		NoPivotRoot: c.NoPivot, Rootfs: rootfsPath(c), Readonlyfs: s.Root.Readonly, Hostname: s.Hostname,
		Cgroups: newRecordCgroup(c), Version: s.Version, Labels: []string{"bundle=" + c.Bundle},
		NoNewPrivileges: s.Process.NoNewPrivileges, NoNewKeyring: c.NoNewKeyring, RootlessEUID: os.Geteuid() != 0, RootlessCgroups: c.Rootless,
		Hooks: recordHooks(s.Hooks),
	}
	for k, v := range s.Annotations {
		r.Config.Labels = append(r.Config.Labels, k+"="+v)
	}
	for _, k := range kinds {
		if ns := findNamespace(s, k.spec); ns != nil {
			r.Config.Namespaces = append(r.Config.Namespaces, recordNamespace{k.record, ns.Path})
		}
	}
	if caps := s.Process.Capabilities; caps != nil {
		r.Config.Capabilities = map[string][]string{
			"Bounding": caps.Bounding, "Effective": caps.Effective, "Inheritable": caps.Inheritable,
			"Permitted": caps.Permitted, "Ambient": caps.Ambient,
		}
	}
	r.Config.UIDMappings = recordMappings(s.Linux.UIDMappings)
	r.Config.GIDMappings = recordMappings(s.Linux.GIDMappings)
	return r
}

func newRecordCgroup(c *Config) recordCgroup {
	g := recordCgroup{Name: c.ID, Path: c.Spec.Linux.CgroupsPath, Systemd: c.SystemdCgroup, Rootless: c.Rootless}
	if !c.SystemdCgroup {
		return g
	}
	g.Path = ""
	if parts := strings.Split(c.Spec.Linux.CgroupsPath, ":"); len(parts) == 3 {
		g.Parent, g.Prefix, g.Name = parts[0], parts[1], parts[2]
	}
	return g
}

// cgroupsPath is the linux.cgroupsPath that g was made from.
func (g *recordCgroup) cgroupsPath() string {
	if g.Systemd && g.Parent+g.Prefix != "" {
		return g.Parent + ":" + g.Prefix + ":" + g.Name
	}
	return g.Path
}

func recordMappings(ids []specs.LinuxIDMapping) (list []recordMapping) {
	for _, m := range ids {
		list = append(list, recordMapping{int64(m.ContainerID), int64(m.HostID), int64(m.Size)})
	}
	return list
}

func recordHooks(h *specs.Hooks) map[string][]hooked {
	if h == nil {
		return nil
	}
	m := map[string][]hooked{}
	for name, list := range map[string][]specs.Hook{
		"poststart": h.Poststart, "poststop": h.Poststop, "startContainer": h.StartContainer,
	} {
		for _, k := range list {
			entry := hooked{Path: k.Path, Args: k.Args, Env: k.Env}
			if k.Timeout != nil {
				d := time.Duration(*k.Timeout) * time.Second
				entry.Timeout = &d
			}
			m[name] = append(m[name], entry)
		}
	}
	return m
}

// hooks are those of a kind that the record keeps.
func (r *record) hooks(name string) (list []specs.Hook) {
	for _, k := range r.Config.Hooks[name] {
		h := specs.Hook{Path: k.Path, Args: k.Args, Env: k.Env}
		if k.Timeout != nil {
			seconds := int(*k.Timeout / time.Second)
			h.Timeout = &seconds
		}
		list = append(list, h)
	}
	return list
}

// started fills in what is known once the init is there.
func (r *record) started(pid int) error {
	_, start, err := processStat(pid)
	if err != nil {
		return err
	}
	r.Pid, r.StartTime = pid, start
	r.NamespacePaths = map[string]string{}
	for _, k := range kinds {
		name := fmt.Sprintf("/proc/%d/ns/%s", pid, k.file)
		if k.flag == unix.CLONE_NEWTIME {
			if _, err := os.Stat(name); err != nil {
				continue // before Linux 5.6
			}
		}
		r.NamespacePaths[k.record] = name
	}
	return nil
}

// label is the value of an entry of Labels.
func (r *record) label(name string) string {
	for _, l := range r.Config.Labels {
		if value, ok := strings.CutPrefix(l, name+"="); ok {
			return value
		}
	}
	return ""
}

func (r *record) annotations() map[string]string {
	m := map[string]string{}
	for _, l := range r.Config.Labels {
		if k, v, ok := strings.Cut(l, "="); ok && k != "bundle" {
			m[k] = v
		}
	}
	return m
}

// save writes the record in one step, so that no reader sees half of it.
func (r *record) save(dir string) error {
	data, err := plainjson.Marshal(r)
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, "state-"+strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(dir, stateFile)); err != nil {
		os.Remove(temp)
		return err
	}
	return nil
}

func loadRecord(dir string) (r record, err error) {
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return r, fmt.Errorf("container does not exist: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return r, err
	}
	if err := plainjson.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	return r, nil
}

// processStat reads the state letter and the start time of a process.
func processStat(pid int) (state byte, start uint64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, in parentheses, may hold anything; what follows is numbers.
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], start, err
}
