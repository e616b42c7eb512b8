// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"slipway/content"
	"slipway/event"
	"slipway/internal/version"
	"slipway/meta"
	"slipway/monitor"
	"slipway/mounts"
	"slipway/policy"
	"slipway/proxy"
	"slipway/sandbox"
	"slipway/service"
	"slipway/snapshot"
	"slipway/task"
	"slipway/transfer"
)

// A component is something that a user can name: in the configuration, and in
// the list of plugins. It has directories of its name.
type component struct {
	typ, id string
	options func() any // a pointer to the options, with the defaults
	open    func(*Daemon, *service.Plugin) error
	service func(*Daemon) registrar // what the gRPC servers serve, instead of open
	needs   []string                // full names of components
	uses    []string                // types of others that it uses if they are there
	native  bool                    // runs programs of this platform
	vital   bool                    // without it the daemon is of no use
}

func (c component) uri() string { return c.typ + "." + c.id }

// A registrar is a service.
type registrar interface{ Register(grpc.ServiceRegistrar) }

// requires are the types of what the component needs and uses.
func (c component) requires() (types []string) {
	types = append(types, c.uses...)
	for _, n := range c.needs {
		types = append(types, n[:strings.LastIndex(n, ".")])
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// pluginURI is a component's full name.
func pluginURI(p *service.Plugin) string { return p.Type + "." + p.ID }

func export(p *service.Plugin, key, value string) {
	if p.Exports == nil {
		p.Exports = map[string]string{}
	}
	p.Exports[key] = value
}

// errSkip is the error of a component that this host or configuration has no
// use for.
var errSkip = fmt.Errorf("skip plugin: %w", errdefs.ErrNotImplemented)

const (
	contentType     = "io.containerd.content.v1"
	differType      = "io.containerd.differ.v1"
	serviceType     = "io.containerd.service.v1"
	grpcType        = "io.containerd.grpc.v1"
	serverType      = "io.containerd.server.v1"
	snapshotterType = "io.containerd.snapshotter.v1"
	sandboxType     = "io.containerd.sandbox.controller.v1"
	verifierType    = "io.containerd.image-verifier.v1"
	mountsType      = "io.containerd.mount-manager.v1"
	handlerType     = "io.containerd.mount-handler.v1"
	warningType     = "io.containerd.warning.v1"
	monitorType     = "io.containerd.monitor.task.v1"

	eventURI  = "io.containerd.event.v1.exchange"
	metaURI   = "io.containerd.metadata.v1.bolt"
	gcURI     = "io.containerd.gc.v1.scheduler"
	leaseURI  = "io.containerd.lease.v1.manager"
	shimURI   = "io.containerd.shim.v1.manager"
	taskURI   = "io.containerd.runtime.v2.task"
	streamURI = "io.containerd.streaming.v1.manager"
)

// components are what there is, in the order in which it starts. The services
// of type service.v1 are parts of those of type grpc.v1 here; their names
// stay, for what users write about them.
var components = []component{
	{typ: "io.containerd.metrics.v1", id: "grpc-prometheus", options: prometheusDefaults, open: (*Daemon).openCallMetrics},
	{typ: contentType, id: "content", open: (*Daemon).openContent},
	{typ: verifierType, id: "bindir", options: verifierDefaults, open: (*Daemon).openVerifier},
	{typ: verifierType, id: "policy", options: policyDefaults, open: (*Daemon).openPolicy},
	{typ: "io.containerd.internal.v1", id: "opt", options: optDefaults, open: (*Daemon).openOpt},
	{typ: "io.containerd.tracing.processor.v1", id: "otlp", options: otlpDefaults, open: (*Daemon).openTracing},
	{typ: "io.containerd.internal.v1", id: "tracing", options: tracingDefaults, open: (*Daemon).openTracing, uses: []string{"io.containerd.tracing.processor.v1"}},
	{typ: warningType, id: "deprecations", open: (*Daemon).openWarnings},
	{typ: "io.containerd.event.v1", id: "exchange", open: (*Daemon).openEvents},
	{typ: snapshotterType, id: "blockfile", options: blockfileDefaults, open: (*Daemon).openBlockfile, native: true},
	{typ: snapshotterType, id: "btrfs", options: nativeDefaults, open: (*Daemon).openBtrfs, native: true},
	{typ: snapshotterType, id: "erofs", options: erofsDefaults, open: (*Daemon).openErofs, native: true},
	{typ: snapshotterType, id: "native", options: nativeDefaults, open: (*Daemon).openNative, native: true},
	{typ: snapshotterType, id: "overlayfs", options: overlayDefaults, open: (*Daemon).openOverlay, native: true},
	{typ: "io.containerd.metadata.v1", id: "bolt", options: boltDefaults, open: (*Daemon).openMeta, needs: []string{eventURI}, uses: []string{contentType, snapshotterType}},
	{typ: "io.containerd.gc.v1", id: "scheduler", options: gcDefaults, open: (*Daemon).openGC, needs: []string{metaURI}},
	{typ: serverType, id: "metrics", options: metricsDefaults, open: (*Daemon).openMetrics},
	{typ: serviceType, id: "containers-service", needs: []string{eventURI, metaURI}},
	{typ: serviceType, id: "content-service", needs: []string{metaURI}},
	{typ: handlerType, id: "erofs", native: true},
	{typ: mountsType, id: "bolt", open: (*Daemon).openMounts, needs: []string{metaURI}, uses: []string{handlerType}},
	{typ: differType, id: "erofs", options: erofsDifferDefaults, open: (*Daemon).openErofsDiffer, needs: []string{metaURI}},
	{typ: differType, id: "walking", open: (*Daemon).openWalking, needs: []string{metaURI}, uses: []string{mountsType}, native: true},
	{typ: serviceType, id: "diff-service", options: diffDefaults, open: (*Daemon).openDiffs, uses: []string{differType}},
	{typ: serviceType, id: "images-service", needs: []string{metaURI, gcURI}, uses: []string{warningType}},
	{typ: serviceType, id: "introspection-service", needs: []string{warningType + ".deprecations"}},
	{typ: serviceType, id: "namespaces-service", needs: []string{eventURI, metaURI}},
	{typ: serviceType, id: "snapshots-service", needs: []string{metaURI}},
	{typ: "io.containerd.shim.v1", id: "manager", options: shimDefaults, needs: []string{eventURI, metaURI}},
	{typ: "io.containerd.runtime.v2", id: "task", options: taskDefaults, open: (*Daemon).openTasks, needs: []string{shimURI}, uses: []string{mountsType, warningType}, native: true},
	{typ: sandboxType, id: "shim", open: (*Daemon).openSandboxes, needs: []string{shimURI, eventURI}},
	{typ: monitorType, id: "cgroups", options: cgroupsDefaults, open: (*Daemon).openCgroups, needs: []string{taskURI}, native: true},
	{typ: serviceType, id: "tasks-service", options: tasksDefaults, needs: []string{eventURI, taskURI, metaURI}, uses: []string{monitorType, warningType}},
	{typ: grpcType, id: "containers", service: func(d *Daemon) registrar { return service.NewContainers(d.db) }, needs: []string{serviceType + ".containers-service"}},
	{typ: grpcType, id: "content", service: func(d *Daemon) registrar { return service.NewContent(d.db) }, needs: []string{serviceType + ".content-service"}},
	{typ: grpcType, id: "diff", service: (*Daemon).newDiff, needs: []string{serviceType + ".diff-service"}},
	{typ: grpcType, id: "events", service: func(d *Daemon) registrar { return service.NewEvents(d.events) }, needs: []string{eventURI}},
	{typ: grpcType, id: "images", service: func(d *Daemon) registrar { return service.NewImages(d.db, d.gc) }, needs: []string{serviceType + ".images-service"}},
	{typ: "io.containerd.lease.v1", id: "manager", needs: []string{metaURI, gcURI}},
	{typ: grpcType, id: "leases", service: func(d *Daemon) registrar { return service.NewLeases(d.db, d.gc) }, needs: []string{leaseURI}},
	{typ: grpcType, id: "mounts", service: func(d *Daemon) registrar { return service.NewMounts(d.mounts) }, needs: []string{mountsType + ".bolt"}},
	{typ: grpcType, id: "namespaces", service: func(d *Daemon) registrar { return service.NewNamespaces(d.db) }, needs: []string{serviceType + ".namespaces-service"}},
	{typ: "io.containerd.transfer.v1", id: "local", options: transferDefaults, open: (*Daemon).openTransfer, needs: []string{leaseURI, metaURI}, uses: []string{differType, verifierType, snapshotterType}},
	{typ: "io.containerd.sandbox.store.v1", id: "local", needs: []string{metaURI}},
	{typ: grpcType, id: "sandbox-controllers", service: func(d *Daemon) registrar {
		return service.NewSandboxController(sandbox.NewManager(d.controllers), d.events)
	}, needs: []string{eventURI}, uses: []string{sandboxType}},
	{typ: grpcType, id: "sandboxes", service: func(d *Daemon) registrar { return service.NewSandboxStore(d.db) }, needs: []string{"io.containerd.sandbox.store.v1.local"}},
	{typ: grpcType, id: "snapshots", service: func(d *Daemon) registrar { return service.NewSnapshots(d.db) }, needs: []string{serviceType + ".snapshots-service"}},
	{typ: grpcType, id: "introspection", service: (*Daemon).newIntrospection, needs: []string{serviceType + ".introspection-service"}},
	{typ: "io.containerd.streaming.v1", id: "manager", open: (*Daemon).openStreams, needs: []string{metaURI}},
	{typ: grpcType, id: "streaming", service: func(d *Daemon) registrar { return service.NewStreaming(d.streams) }, needs: []string{streamURI}},
	{typ: grpcType, id: "tasks", service: func(d *Daemon) registrar { return service.NewTasks(d.tasks, d.db, d.config.Root) }, needs: []string{serviceType + ".tasks-service"}},
	{typ: grpcType, id: "transfer", service: (*Daemon).newTransfer, needs: []string{"io.containerd.transfer.v1.local", streamURI}},
	{typ: grpcType, id: "version", service: func(d *Daemon) registrar { return service.NewVersion(version.Version, version.Revision) }},
	{typ: grpcType, id: "healthcheck", service: func(*Daemon) registrar { return health{} }},
	{typ: "io.containerd.monitor.container.v1", id: "restart", options: restartDefaults, open: (*Daemon).openRestarts, needs: []string{eventURI, serviceType + ".tasks-service"}},
	{typ: serverType, id: "ttrpc", options: ttrpcDefaults, open: (*Daemon).openTTRPC, needs: []string{eventURI}, uses: []string{grpcType}, vital: true},
	{typ: serverType, id: "grpc", options: grpcDefaults, open: (*Daemon).openGRPC, uses: []string{grpcType, "io.containerd.metrics.v1"}, vital: true},
	{typ: serverType, id: "grpc-tcp", options: tcpDefaults, open: (*Daemon).openTCP, uses: []string{grpcType, "io.containerd.metrics.v1"}},
	{typ: "io.containerd.http.v1", id: "pprof"},
	{typ: serverType, id: "debug", options: debugDefaults, open: (*Daemon).openDebug},
}

// absent are components of upstream's that this build does not have. They are
// listed as skipped, lest somebody take them for loaded.
var absent = []string{
	"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.podsandbox.controller.v1.podsandbox",
	"io.containerd.metrics.v1.grpc-otel", "io.containerd.nri.v1.nri",
	"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.ttrpc.v1.otelttrpc",
}

// gone are components that upstream does not have any more either.
var gone = []string{"io.containerd.runtime.v1.linux", "io.containerd.snapshotter.v1.aufs"}

func isAbsent(uri string) bool { return slices.Contains(absent, uri) || slices.Contains(gone, uri) }

// listAbsent lists what is absent, unless it is disabled or a proxy has its
// place.
func (d *Daemon) listAbsent() {
	for _, uri := range absent {
		there := slices.ContainsFunc(d.plugins, func(p *service.Plugin) bool { return pluginURI(p) == uri })
		if there || slices.Contains(d.config.DisabledPlugins, uri) {
			continue
		}
		dot := strings.LastIndex(uri, ".")
		d.plugins = append(d.plugins, &service.Plugin{Type: uri[:dot], ID: uri[dot+1:], InitErr: fmt.Errorf("not a part of this daemon: %w", errSkip)})
	}
}

// platformsOf says what a component runs programs of.
func (c component) platformsOf() []ocispec.Platform {
	if !c.native {
		return nil
	}
	return []ocispec.Platform{platforms.DefaultSpec()}
}

// rootDir makes the component's directory of what stays, stateDir that of
// what a reboot may remove.
func (d *Daemon) rootDir(p *service.Plugin, mode os.FileMode) (string, error) {
	return makeDir(filepath.Join(d.config.Root, pluginURI(p)), mode)
}

func (d *Daemon) stateDir(p *service.Plugin, mode os.FileMode) (string, error) {
	return makeDir(filepath.Join(d.config.State, pluginURI(p)), mode)
}

func makeDir(dir string, mode os.FileMode) (string, error) {
	if err := os.MkdirAll(dir, mode); err != nil {
		return "", fmt.Errorf("directory %s: %w", dir, err)
	}
	return dir, os.Chmod(dir, mode)
}

func (d *Daemon) openContent(p *service.Plugin) error {
	dir, err := d.rootDir(p, 0o755)
	if err != nil {
		return err
	}
	export(p, "root", dir)
	local, err := content.Open(dir)
	if err != nil {
		return err
	}
	d.contents[p.ID] = local
	return nil
}

func (d *Daemon) openVerifier(p *service.Plugin) error {
	o := options[verifierOptions](d.config, pluginURI(p))
	d.verifier = &transfer.Verifier{Dir: o.BinDir, Max: o.MaxVerifiers, Timeout: time.Duration(o.PerVerifierTimeout)}
	return nil
}

// openPolicy notes the policy for images. A broken one refuses every image,
// until it is mended, and so must not keep the daemon from starting.
func (d *Daemon) openPolicy(p *service.Plugin) error {
	path := options[policyOptions](d.config, pluginURI(p)).Path
	export(p, "path", path)
	d.policy = &policy.File{Path: path, Required: path != defaultPolicy}
	if err := d.policy.Load(); err != nil {
		d.log.Error("no image is pulled, imported or run until the policy is mended", "error", err)
	}
	return nil
}

// openOpt lets the daemon and its shims find what users installed.
func (d *Daemon) openOpt(p *service.Plugin) error {
	path := options[optOptions](d.config, pluginURI(p)).Path
	export(p, "path", path)
	for name, dir := range map[string]string{"PATH": "bin", "LD_LIBRARY_PATH": "lib"} {
		list := filepath.Join(path, dir)
		if err := os.MkdirAll(list, 0o711); err != nil {
			return err
		}
		if old := os.Getenv(name); old != "" {
			list += string(os.PathListSeparator) + old
		}
		if err := os.Setenv(name, list); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) openEvents(*service.Plugin) error {
	d.events = event.New()
	return nil
}

func (d *Daemon) openNative(p *service.Plugin) error {
	dir, err := d.snapshotterDir(p, options[nativeOptions](d.config, pluginURI(p)).RootPath)
	if err != nil {
		return err
	}
	s, err := snapshot.OpenNative(dir)
	if err != nil {
		return err
	}
	d.addSnapshotter(p, s)
	return nil
}

func (d *Daemon) openOverlay(p *service.Plugin) error {
	o := options[overlayOptions](d.config, pluginURI(p))
	dir, err := d.snapshotterDir(p, o.RootPath)
	if err != nil {
		return err
	}
	s, err := snapshot.OpenOverlay(dir, snapshot.OverlayOpts{
		SyncRemove: o.SyncRemove, MountOptions: o.MountOptions, UpperLabel: o.UpperdirLabel, SlowChown: o.SlowChown,
	})
	if err != nil {
		return err
	}
	d.addSnapshotter(p, s)
	return nil
}

func (d *Daemon) snapshotterDir(p *service.Plugin, configured string) (dir string, err error) {
	if configured != "" {
		dir, err = makeDir(configured, 0o700)
	} else {
		dir, err = d.rootDir(p, 0o700)
	}
	export(p, "root", dir)
	return dir, err
}

func (d *Daemon) addSnapshotter(p *service.Plugin, s *snapshot.Store) {
	d.snapshotters[p.ID] = s
	p.Capabilities = s.Capabilities()
	d.capabilities[p.ID] = p.Capabilities
	d.onClose(s.Close)
}

func (d *Daemon) openMeta(p *service.Plugin) error {
	if len(d.contents) != 1 {
		names := slices.Sorted(keysOf(d.contents))
		return fmt.Errorf("needs one content store, and there are %d (%s): %w", len(names), strings.Join(names, ", "), errdefs.ErrFailedPrecondition)
	}
	dir, err := d.rootDir(p, 0o711)
	if err != nil {
		return err
	}
	o, path := options[boltOptions](d.config, pluginURI(p)), filepath.Join(dir, "meta.db")
	export(p, "path", path)
	export(p, "policy", o.SharingPolicy)
	d.db, err = meta.Open(path, meta.Options{
		NoSync: o.NoSync, OpenTimeout: d.config.timeout("bolt.open"), SharingPolicy: o.SharingPolicy,
	}, slices.Collect(maps.Values(d.contents))[0], d.snapshotters, d.events)
	if err != nil {
		return err
	}
	d.onClose(d.db.Close)
	return nil
}

func (d *Daemon) openGC(p *service.Plugin) error {
	o := options[gcOptions](d.config, pluginURI(p))
	export(p, "PauseThreshold", fmt.Sprint(o.PauseThreshold))
	export(p, "DeletionThreshold", fmt.Sprint(o.DeletionThreshold))
	export(p, "MutationThreshold", fmt.Sprint(o.MutationThreshold))
	export(p, "ScheduleDelay", o.ScheduleDelay.String())
	d.gc = meta.NewScheduler(d.db, meta.SchedulerConfig{
		PauseThreshold: o.PauseThreshold, DeletionThreshold: o.DeletionThreshold, MutationThreshold: o.MutationThreshold,
		ScheduleDelay: time.Duration(o.ScheduleDelay), StartupDelay: time.Duration(o.StartupDelay),
		Observe: d.observeGC(),
	})
	d.work(d.gc.Run)
	return nil
}

// taskConfig is what whatever starts shims needs; it has the directories of
// the component.
func (d *Daemon) taskConfig(p *service.Plugin, mode os.FileMode) (task.Config, error) {
	state, err := d.stateDir(p, mode)
	if err != nil {
		return task.Config{}, err
	}
	root, err := d.rootDir(p, mode)
	if err != nil {
		return task.Config{}, err
	}
	binary, err := os.Executable()
	if err != nil {
		return task.Config{}, err
	}
	o := options[shimOptions](d.config, shimURI)
	return task.Config{
		State: state, Root: root, DB: d.db, Events: d.events,
		Address: absolute(d.config.Address()), TTRPCAddress: absolute(options[ttrpcOptions](d.config, serverType+".ttrpc").Address), // shims run elsewhere
		SocketDir: o.SocketDir, Env: o.Env, Binary: binary, LogLevel: d.level(), Log: d.log,
		Timeouts: task.Timeouts{
			State: d.config.timeout("task.state"), Stats: d.config.timeout("metrics.shimstats"), Load: d.config.timeout("shim.load"),
			Shutdown: d.config.timeout("shim.shutdown"), Cleanup: d.config.timeout("shim.cleanup"),
		},
		Sandboxes: sandbox.Endpoints{DB: d.db, Manager: sandbox.NewManager(d.controllers)},
	}, nil
}

func (d *Daemon) openTasks(p *service.Plugin) error {
	c, err := d.taskConfig(p, 0o711)
	if err != nil {
		return err
	}
	export(p, "log-uri-schemes", "fifo,binary,binary-v2,file")
	c.Admit = transfer.Guard{DB: d.db, Policy: d.policy}.Admit
	if d.mounts != nil {
		c.Mounts = d.mounts
	}
	m, err := task.New(c)
	if err != nil {
		return err
	}
	d.onClose(m.Close)
	if err := m.Load(d.ctx); err != nil {
		return err
	}
	d.tasks = m
	return nil
}

func (d *Daemon) openSandboxes(p *service.Plugin) error {
	c, err := d.taskConfig(p, 0o700)
	if err != nil {
		return err
	}
	s, err := sandbox.NewShims(c)
	if err != nil {
		return err
	}
	d.onClose(s.Close)
	if err := s.Load(d.ctx); err != nil {
		return err
	}
	d.controllers[p.ID] = s
	return nil
}

func (d *Daemon) openMounts(p *service.Plugin) (err error) {
	state, err := d.stateDir(p, 0o700)
	if err != nil {
		return err
	}
	d.mounts, err = mounts.Open(mounts.Config{State: state, Roots: []string{d.config.Root}, DB: d.db, OpenTimeout: d.config.timeout("bolt.open")})
	if err != nil {
		return err
	}
	d.onClose(d.mounts.Close)
	return nil
}

func (d *Daemon) openTransfer(p *service.Plugin) error {
	o := options[transferOptions](d.config, pluginURI(p))
	c := transfer.Config{
		DB: d.db, Capabilities: func(name string) []string { return d.capabilities[name] }, Temp: d.temp(),
		Downloads: o.MaxConcurrentDownloads, Unpacks: o.MaxConcurrentUnpacks, Uploads: o.MaxConcurrentUploadedLayers,
		SyncFS: options[diffOptions](d.config, serviceType+".diff-service").SyncFS,
		Mount:  d.mounter(), Erofs: d.erofs, Processors: d.config.processors(), Verifier: d.verifier, Policy: d.policy,
	}
	if def := transferDefaults().(*transferOptions); o.MaxConcurrentDownloads == def.MaxConcurrentDownloads && o.MaxConcurrentUnpacks == def.MaxConcurrentUnpacks {
		c.Downloads, c.Unpacks = 0, 0 // who did not choose gets what the host can do
	}
	differ := "walking"
	for _, u := range o.UnpackConfig {
		if u.Platform == "" || strings.HasPrefix(u.Platform, platform()) {
			c.Snapshotter = u.Snapshotter
			if u.Differ != "" {
				differ = u.Differ
			}
			break
		}
	}
	switch chosen := d.differs[differ].(type) {
	case nil:
		return fmt.Errorf("needed differ not loaded: %s: %w", differ, errdefs.ErrUnavailable)
	case *proxy.Differ:
		c.Differ = chosen
	}
	d.transfer = transfer.New(c)
	return nil
}

func (d *Daemon) openCgroups(p *service.Plugin) error {
	if d.registry == nil || options[cgroupsOptions](d.config, pluginURI(p)).NoPrometheus {
		return nil
	}
	return d.registry.Register(&monitor.Cgroups{DB: d.db, Tasks: d.tasks, Timeout: d.config.timeout("metrics.shimstats")})
}

func (d *Daemon) openRestarts(p *service.Plugin) error {
	interval := time.Duration(options[restartOptions](d.config, pluginURI(p)).Interval)
	if interval <= 0 {
		return fmt.Errorf("interval %s of the restart monitor: %w", interval, errdefs.ErrInvalidArgument)
	}
	p.Capabilities = monitor.Policies
	d.work((&monitor.Restarts{DB: d.db, Tasks: d.tasks, Interval: interval}).Run)
	return nil
}

func (d *Daemon) openStreams(*service.Plugin) error {
	d.streams = &transfer.Streams{}
	return nil
}

func (d *Daemon) newIntrospection() registrar {
	c := service.IntrospectionConfig{
		Plugins: d.listPlugins, Deprecations: d.warnings.list,
		UUIDFile: filepath.Join(d.config.Root, grpcType+".introspection", "uuid"),
	}
	if d.tasks != nil {
		c.RuntimeInfo = d.tasks.RuntimeInfo
	}
	return service.NewIntrospection(c)
}

// listPlugins is called by requests, after the last component is open.
func (d *Daemon) listPlugins() []service.Plugin {
	all := make([]service.Plugin, 0, len(d.plugins))
	for _, p := range d.plugins {
		all = append(all, *p)
	}
	return all
}

func (d *Daemon) newDiff() registrar {
	return service.NewDiff(options[diffOptions](d.config, serviceType+".diff-service").SyncFS, d.ordered...)
}

func (d *Daemon) newTransfer() registrar {
	o := options[transferOptions](d.config, "io.containerd.transfer.v1.local")
	return service.NewTransfer(d.transfer, d.streams, o.ConfigPath)
}

// health is the service that has nothing of its own.
type health struct{}

func (health) Register(r grpc.ServiceRegistrar) { service.RegisterHealth(r) }
