// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/oci"
	"slipway/oci/apparmor"
	"slipway/oci/blockio"
	"slipway/oci/cdi"
)

// containerFlags describe a container.
type containerFlags struct {
	set         flagSet
	runtime     *runtimeFlags
	snapshotter string

	config, cwd, envFile, sandbox, platform, user, hostname   string
	env, labels, annotations, mounts, namespaces              []string
	snapshotLabels, uidMaps, gidMaps, devices, gpus           []string
	capAdd, capDrop, publish                                  []string
	netHost, privileged, readOnly, tty, newPrivs, rootfs, cni bool
	syncFS, remapLabels, withoutHostDevices, seccomp          bool
	seccompProfile, apparmorDefault, apparmor                 string
	blockioConfig, blockioClass, rdtClass                     string
	cgroup, cpusetCPUs, cpusetMems, nofile, propagation       string
	memory, cpuPeriod                                         uint64
	cpus                                                      float64
	cpuShares                                                 int
	cpuQuota                                                  int64
}

func containerOf(f flagSet) *containerFlags {
	c := &containerFlags{set: f, runtime: runtimeOf(f)}
	f.StringVar(&c.snapshotter, "snapshotter", os.Getenv("CONTAINERD_SNAPSHOTTER"), "Name of the snapshotter, the namespace's default if empty (CONTAINERD_SNAPSHOTTER)")
	listVar(f, &c.snapshotLabels, "snapshotter-label", "", "Label of the container's snapshot, key=value")
	c.processFlags(f)
	c.isolationFlags(f)
	c.resourceFlags(f)
	return c
}

func (c *containerFlags) processFlags(f flagSet) {
	f.StringVarP(&c.config, "config", "c", "", "File of a runtime spec to use as it is")
	f.StringVar(&c.cwd, "cwd", "", "Working directory of the process")
	listVar(f, &c.env, "env", "", "Environment variable, NAME=value")
	f.StringVar(&c.envFile, "env-file", "", "File of environment variables, one a line")
	listVar(f, &c.labels, "label", "", "Label of the container, key=value")
	listVar(f, &c.annotations, "annotation", "", "Annotation of the runtime spec, key=value")
	listVar(f, &c.mounts, "mount", "", "Mount, type=bind,src=/tmp,dst=/host,options=rbind:ro")
	f.BoolVarP(&c.tty, "tty", "t", false, "Give the process a terminal")
	f.StringVarP(&c.user, "user", "u", "", "User and group, name|uid[:group|gid]")
	f.StringVar(&c.hostname, "hostname", "", "Host name in the container")
	f.StringVar(&c.platform, "platform", "", "Platform of the image to run")
	f.BoolVar(&c.rootfs, "rootfs", false, "The first argument is a directory, not an image")
	f.BoolVar(&c.readOnly, "read-only", false, "Make the root file system read-only")
	f.BoolVar(&c.syncFS, "sync-fs", false, "Flush the file system after unpacking")
	f.StringVar(&c.propagation, "rootfs-propagation", "", "How mounts below the root spread")
}

func (c *containerFlags) isolationFlags(f flagSet) {
	f.BoolVar(&c.netHost, "net-host", false, "Use the host's network")
	f.BoolVar(&c.cni, "cni", false, "Connect the container by CNI")
	listVar(f, &c.publish, "publish", "", "Port of the host that leads to one of the container, with --cni: [IP:]HOST:CONTAINER[/PROTOCOL]")
	listVar(f, &c.namespaces, "with-ns", "", "Namespace to join, type:path")
	f.StringVar(&c.sandbox, "sandbox", "", "Sandbox of the container")
	f.BoolVar(&c.privileged, "privileged", false, "Take down most of what isolates the container")
	f.BoolVar(&c.withoutHostDevices, "privileged-without-host-devices", false, "Keep the host's devices from a privileged container")
	f.BoolVar(&c.newPrivs, "allow-new-privs", false, "Let programs gain privileges")
	listVar(f, &c.capAdd, "cap-add", "", "Capability to add, CAP_…")
	listVar(f, &c.capDrop, "cap-drop", "", "Capability to drop, CAP_…")
	f.BoolVar(&c.seccomp, "seccomp", false, "Use the default seccomp profile")
	f.StringVar(&c.seccompProfile, "seccomp-profile", "", "File of a seccomp profile; needs --seccomp")
	f.StringVar(&c.apparmorDefault, "apparmor-default-profile", "", "Load the default AppArmor profile under this name")
	f.StringVar(&c.apparmor, "apparmor-profile", "", "AppArmor profile that is loaded")
	listVar(f, &c.uidMaps, "uidmap", "", "Map user ids, container-uid:host-uid:length")
	listVar(f, &c.gidMaps, "gidmap", "", "Map group ids, container-gid:host-gid:length")
	f.BoolVar(&c.remapLabels, "remap-labels", false, "Have the snapshotter remap ids")
	listVar(f, &c.devices, "device", "", "Device, or directory of devices, of the host, or by CDI, vendor/class=name")
	listVar(f, &c.gpus, "gpus", "", "GPU, by its number, by CDI")
}

func (c *containerFlags) resourceFlags(f flagSet) {
	f.StringVar(&c.cgroup, "cgroup", "", "Path of the cgroup, \"\" for none")
	f.Float64Var(&c.cpus, "cpus", 0, "CPUs' worth of time")
	f.IntVar(&c.cpuShares, "cpu-shares", 1024, "Weight of the CPU time")
	f.Int64Var(&c.cpuQuota, "cpu-quota", -1, "CPU time in each period, in µs")
	f.Uint64Var(&c.cpuPeriod, "cpu-period", 0, "Period of the quota, in µs")
	f.StringVar(&c.cpusetCPUs, "cpuset-cpus", "", "CPUs to run on, as 0-3,5")
	f.StringVar(&c.cpusetMems, "cpuset-mems", "", "Memory nodes to use")
	f.Uint64Var(&c.memory, "memory-limit", 0, "Most memory, in bytes")
	f.StringVar(&c.nofile, "rlimit-nofile", "", "Limit of open files, soft:hard")
	f.StringVar(&c.blockioConfig, "blockio-config-file", "", "File of block I/O classes")
	f.StringVar(&c.blockioClass, "blockio-class", "", "Block I/O class")
	f.StringVar(&c.rdtClass, "rdt-class", "", "Class of Intel RDT")
}

// envOpts come before what the other flags say of the environment.
func (c *containerFlags) envOpts() []oci.Opt {
	var opts []oci.Opt
	if c.envFile != "" {
		opts = append(opts, oci.WithEnvFile(c.envFile))
	}
	return append(opts, oci.WithEnv(c.env...))
}

// opts turns flags into edits of the spec, in the order in which they have to
// be made.
func (c *containerFlags) opts() (opts []oci.Opt, err error) {
	for _, part := range []func() ([]oci.Opt, error){
		c.mountOpts, c.processOpts, c.privilegeOpts, c.networkOpts, c.capabilityOpts, c.profileOpts, c.cpuOpts, c.namespaceOpts, c.resourceOpts, c.deviceOpts,
	} {
		more, err := part()
		if err != nil {
			return nil, err
		}
		opts = append(opts, more...)
	}
	return append(opts, oci.WithAnnotations(labels(c.labels))), nil
}

func (c *containerFlags) mountOpts() (opts []oci.Opt, err error) {
	for _, text := range c.mounts {
		m, err := parseMount(text)
		if err != nil {
			return nil, err
		}
		opts = append(opts, oci.WithoutMounts(m.Destination), oci.WithMounts(m))
	}
	return opts, nil
}

// parseMount reads type=…,src=…,dst=…,options=a:b. Values may be quoted as in
// CSV.
func parseMount(text string) (m specs.Mount, err error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return m, err
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return m, errors.New("invalid mount specification: expected key=val")
		}
		switch key {
		case "type":
			m.Type = value
		case "source", "src":
			m.Source = value
		case "destination", "dst":
			m.Destination = value
		case "options":
			m.Options = strings.Split(value, ":")
		default:
			return m, fmt.Errorf("mount option %q not supported", key)
		}
	}
	return m, nil
}

func (c *containerFlags) processOpts() (opts []oci.Opt, err error) {
	if c.readOnly {
		opts = append(opts, oci.WithReadonlyRoot())
	}
	if c.cwd != "" {
		opts = append(opts, oci.WithCwd(c.cwd))
	}
	if c.tty {
		opts = append(opts, oci.WithTTY())
	}
	if c.hostname != "" {
		opts = append(opts, oci.WithHostname(c.hostname))
	}
	if c.propagation != "" {
		opts = append(opts, oci.WithRootfsPropagation(c.propagation))
	}
	annotations := make(map[string]string)
	for _, text := range c.annotations {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("invalid key=value format annotation: %v", text)
		}
		annotations[key] = value
	}
	return append(opts, oci.WithAnnotations(annotations)), nil
}

func (c *containerFlags) privilegeOpts() (opts []oci.Opt, err error) {
	if c.withoutHostDevices && !c.privileged {
		return nil, errors.New("can't use 'privileged-without-host-devices' without 'privileged' specified")
	}
	if c.privileged {
		opts = append(opts, oci.WithPrivileged(!c.withoutHostDevices))
	}
	if c.set.Changed("allow-new-privs") {
		opts = append(opts, oci.WithNewPrivileges())
	}
	return opts, nil
}

func (c *containerFlags) networkOpts() ([]oci.Opt, error) {
	if !c.netHost {
		return nil, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("get hostname: %w", err)
	}
	return []oci.Opt{
		oci.WithHostNamespace(specs.NetworkNamespace), oci.WithHostHosts(), oci.WithHostResolvConf(), oci.WithEnv("HOSTNAME=" + name),
	}, nil
}

func (c *containerFlags) capabilityOpts() ([]oci.Opt, error) {
	for _, list := range [][]string{c.capAdd, c.capDrop} {
		for _, name := range list {
			if !strings.HasPrefix(name, "CAP_") {
				return nil, errors.New("capabilities must be specified with 'CAP_' prefix")
			}
		}
	}
	if len(c.capAdd)+len(c.capDrop) == 0 {
		return nil, nil
	}
	return []oci.Opt{oci.WithCapabilities(c.capAdd, c.capDrop)}, nil
}

func (c *containerFlags) profileOpts() (opts []oci.Opt, err error) {
	switch {
	case !c.seccomp && c.seccompProfile != "":
		return nil, errors.New("seccomp must be set to true, if using a custom seccomp-profile")
	case c.apparmorDefault != "" && c.apparmor != "":
		return nil, errors.New("apparmor-profile conflicts with apparmor-default-profile")
	case c.seccompProfile != "":
		opts = append(opts, oci.WithSeccompFile(c.seccompProfile))
	case c.seccomp:
		opts = append(opts, oci.WithSeccompDefault())
	}
	if c.apparmorDefault != "" {
		opts = append(opts, withDefaultProfile(c.apparmorDefault))
	}
	if c.apparmor != "" {
		opts = append(opts, oci.WithAppArmor(c.apparmor))
	}
	return opts, nil
}

func withDefaultProfile(name string) oci.Opt {
	return func(ctx context.Context, s *specs.Spec) error {
		if err := apparmor.Default(ctx, name); err != nil {
			return err
		}
		return oci.WithAppArmor(name)(ctx, s)
	}
}

func (c *containerFlags) cpuOpts() (opts []oci.Opt, err error) {
	limited := c.cpuQuota != -1 || c.cpuPeriod != 0
	if c.cpus > 0 && limited {
		return nil, errors.New("cpus and quota/period should be used separately")
	}
	if c.cpus > 0 {
		opts = append(opts, oci.WithCPUs(c.cpus))
	}
	if limited {
		opts = append(opts, oci.WithCPUQuota(c.cpuQuota), oci.WithCPUPeriod(c.cpuPeriod))
	}
	if c.cpuShares > 0 {
		opts = append(opts, oci.WithCPUShares(uint64(c.cpuShares)))
	}
	if c.cpusetCPUs != "" || c.cpusetMems != "" {
		opts = append(opts, oci.WithCPUSets(c.cpusetCPUs, c.cpusetMems))
	}
	return opts, nil
}

func (c *containerFlags) namespaceOpts() (opts []oci.Opt, err error) {
	for _, text := range c.namespaces {
		kind, path, ok := strings.Cut(text, ":")
		if !ok {
			return nil, errors.New("joining a Linux namespace using --with-ns requires the format 'nstype:path'")
		}
		opt := oci.WithNamespace(specs.LinuxNamespaceType(kind), path)
		if err := opt(context.Background(), &specs.Spec{}); err != nil {
			return nil, errors.New("the Linux namespace type specified in --with-ns is not valid: " + kind)
		}
		opts = append(opts, opt)
	}
	if len(c.uidMaps) == 0 || len(c.gidMaps) == 0 {
		return opts, nil
	}
	uids, err := idMappings(c.uidMaps)
	if err != nil {
		return nil, err
	}
	gids, err := idMappings(c.gidMaps)
	if err != nil {
		return nil, err
	}
	return append(opts, oci.WithUserNamespace(uids, gids)), nil
}

func (c *containerFlags) resourceOpts() (opts []oci.Opt, err error) {
	if c.runtime.systemdCgroup && c.cgroup == "" {
		return nil, errors.New(`option --runc-systemd-cgroup requires --cgroup to be set, e.g. "machine.slice:foo:deadbeef"`)
	}
	if c.blockioClass != "" {
		opts = append(opts, blockio.With(c.blockioConfig, c.blockioClass))
	}
	if c.set.Changed("cgroup") {
		opts = append(opts, oci.WithCgroup(c.cgroup))
	}
	if c.memory != 0 {
		opts = append(opts, oci.WithMemoryLimit(c.memory))
	}
	if c.rdtClass != "" {
		opts = append(opts, oci.WithRdt(c.rdtClass))
	}
	if c.nofile == "" {
		return opts, nil
	}
	soft, hard, ok := strings.Cut(c.nofile, ":")
	if !ok {
		hard = soft
	}
	low, err := strconv.ParseUint(soft, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rlimit-nofile %q: %w", c.nofile, err)
	}
	high, err := strconv.ParseUint(hard, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rlimit-nofile %q: %w", c.nofile, err)
	}
	return append(opts, oci.WithRlimit("RLIMIT_NOFILE", low, high)), nil
}

func (c *containerFlags) deviceOpts() (opts []oci.Opt, err error) {
	for _, d := range c.devices {
		if cdi.IsName(d) {
			opts = append(opts, cdi.Devices{}.With(d))
			continue
		}
		opts = append(opts, oci.WithDevice(d))
	}
	if len(c.gpus) > 0 {
		opts = append(opts, cdi.Devices{}.WithGPUs(c.gpus...))
	}
	return opts, nil
}
