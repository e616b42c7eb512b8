// SPDX-License-Identifier: Apache-2.0

// Package daemon puts the system together: it reads the configuration, opens
// the components that it names, in the order of one table, and serves their
// API on sockets until it is told to stop. Containers are not its children
// and outlive it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"slipway/diff"
	"slipway/event"
	"slipway/internal/mount"
	"slipway/internal/version"
	"slipway/meta"
	"slipway/mounts"
	"slipway/policy"
	"slipway/sandbox"
	"slipway/service"
	"slipway/snapshot"
	"slipway/task"
	"slipway/transfer"
)

// A Daemon is the components of one configuration. Use New.
type Daemon struct {
	config *Config
	log    *slog.Logger

	contents     map[string]meta.ContentBackend // one, unless the configuration is wrong
	snapshotters map[string]snapshot.Snapshotter
	capabilities map[string][]string // of snapshotters
	events       *event.Exchange
	db           *meta.DB
	gc           *meta.Scheduler
	tasks        *task.Manager
	controllers  map[string]sandbox.Controller
	mounts       *mounts.Manager
	erofs        *diff.ErofsOpts // makes images of layers, nil if nothing can
	differs      map[string]service.Differ
	ordered      []service.Differ // those that the API asks
	verifier     *transfer.Verifier
	policy       *policy.File
	transfer     *transfer.Service
	streams      *transfer.Streams

	plugins  []*service.Plugin
	warnings warnings
	services services             // what the gRPC servers serve
	ttrpc    *ttrpc.Server        // nil if there is no such socket
	servers  []server             // in the order in which they start
	registry *prometheus.Registry // nil if nobody reads it
	calls    *callMetrics         // so is this

	closers []func() error // in the order in which they were added
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup // ended by cancel
}

// stopTime is how long requests may go on when the daemon is told to stop.
const stopTime = 500 * time.Millisecond

// undoTime is how long they may then need to end.
const undoTime = 10 * time.Second

// slowOpen is when a component that does not open is worth a line in the log.
const slowOpen = 10 * time.Second

// New opens every component. Of those that fail, only the required ones make
// New fail. What New opened, Run closes.
func New(ctx context.Context, c *Config) (_ *Daemon, err error) {
	if err := c.checkPaths(); err != nil {
		return nil, err
	}
	d := &Daemon{
		config: c, log: slog.Default(), snapshotters: map[string]snapshot.Snapshotter{}, capabilities: map[string][]string{},
		controllers: map[string]sandbox.Controller{}, differs: map[string]service.Differ{},
		contents: map[string]meta.ContentBackend{},
	}
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if err := d.makeDirs(); err != nil {
		return nil, err
	}
	if err := d.openAll(); err != nil {
		return nil, err
	}
	return d, nil
}

// makeDirs makes the directories that are nobody's, and takes off what an
// earlier daemon left mounted in that of temporary mounts.
func (d *Daemon) makeDirs() error {
	c := d.config
	dirs := map[string]os.FileMode{c.Root: 0o700, c.State: 0o711, d.temp(): 0o700}
	if c.Temp != "" {
		dirs[c.Temp] = 0o700
	}
	for _, dir := range slices.Sorted(keysOf(dirs)) { // a parent sorts before what is in it
		if err := os.MkdirAll(dir, dirs[dir]); err != nil {
			return fmt.Errorf("directory %s: %w", dir, err)
		}
	}
	for _, dir := range []string{c.Root, c.State} {
		if err := os.Chmod(dir, dirs[dir]); err != nil {
			return err
		}
	}
	if c.Temp != "" {
		if err := os.Setenv("TMPDIR", c.Temp); err != nil {
			return err
		}
	}
	left, err := filepath.Glob(filepath.Join(d.temp(), "*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := errors.Join(mount.UnmountRecursive(dir), os.Remove(dir)); err != nil {
			d.log.Warn("temporary mount of an earlier daemon", "path", dir, "error", err)
		}
	}
	return nil
}

// temp is where temporary mounts are made.
func (d *Daemon) temp() string { return filepath.Join(d.config.Root, "tmpmounts") }

// openAll walks the table.
func (d *Daemon) openAll() error {
	for _, comp := range d.withProxies() {
		if slices.Contains(d.config.DisabledPlugins, comp.uri()) {
			continue
		}
		p := &service.Plugin{Type: comp.typ, ID: comp.id, Platforms: comp.platformsOf(), Requires: comp.requires()}
		d.plugins = append(d.plugins, p)
		log := d.log.With("id", comp.uri(), "type", comp.typ)
		log.Info("loading plugin")
		p.InitErr = d.open(comp, p)
		switch {
		case p.InitErr == nil:
		case slices.Contains(d.config.RequiredPlugins, comp.uri()) || comp.vital:
			return fmt.Errorf("load required plugin %s: %w", comp.uri(), p.InitErr)
		case errors.Is(p.InitErr, errSkip):
			log.Info("skip loading plugin", "error", p.InitErr)
		default:
			log.Warn("failed to load plugin", "error", p.InitErr)
		}
	}
	defer d.listAbsent()
	return d.checkRequired()
}

func (d *Daemon) open(comp component, p *service.Plugin) error {
	for _, need := range comp.needs {
		if !slices.ContainsFunc(d.plugins, func(p *service.Plugin) bool { return pluginURI(p) == need && p.InitErr == nil }) {
			return fmt.Errorf("needs %s, which is not loaded: %w", need, errdefs.ErrUnavailable)
		}
	}
	if comp.service != nil {
		comp.service(d).Register(&d.services)
	}
	if comp.open == nil {
		return nil
	}
	slow := time.AfterFunc(slowOpen, func() {
		d.log.Warn("plugin is still loading, another process may hold its database", "id", comp.uri(), "type", comp.typ)
	})
	defer slow.Stop()
	return comp.open(d, p)
}

// checkRequired finds names of components that do not exist, or are disabled.
func (d *Daemon) checkRequired() error {
	for _, uri := range d.config.RequiredPlugins {
		if !slices.ContainsFunc(d.plugins, func(p *service.Plugin) bool { return pluginURI(p) == uri }) {
			return fmt.Errorf("required plugin %s is not loaded: %w", uri, errdefs.ErrNotFound)
		}
	}
	return nil
}

// onClose adds what Run does last, before what was added earlier.
func (d *Daemon) onClose(fn func() error) { d.closers = append(d.closers, fn) }

// work runs fn until the daemon stops.
func (d *Daemon) work(fn func(context.Context)) { d.workers.Go(func() { fn(d.ctx) }) }

// Run serves until ctx ends or a server fails, and closes the daemon.
func (d *Daemon) Run(ctx context.Context) error {
	failed := make(chan error, len(d.servers))
	for _, s := range d.servers {
		d.log.Info("serving...", "address", s.Addr().String())
		d.workers.Go(func() {
			if err := s.serve(); err != nil {
				failed <- fmt.Errorf("server on %s: %w", s.Addr(), err)
			}
		})
	}
	d.notify("READY=1")
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	d.notify("STOPPING=1")
	return errors.Join(err, d.close())
}

// close ends requests, then the work in the background, then what is below.
func (d *Daemon) close() error {
	var stopping sync.WaitGroup
	for _, s := range slices.Backward(d.servers) {
		stopping.Go(s.end)
	}
	stopping.Wait()
	d.cancel()
	d.workers.Wait()
	var errs []error
	for _, fn := range slices.Backward(d.closers) {
		errs = append(errs, fn())
	}
	return errors.Join(errs...)
}

// services records what is registered, for servers that come later.
type services []registered

type registered struct {
	desc *grpc.ServiceDesc
	impl any
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *services) RegisterService(desc *grpc.ServiceDesc, impl any) {
	*s = append(*s, registered{desc, impl})
}

// Boot is New for the command: it also gives the process its place.
func Boot(ctx context.Context, c *Config) (*Daemon, error) {
	start := time.Now()
	slog.Info("starting containerd", "version", version.Version, "revision", version.Revision)
	if err := adjustSelf(c); err != nil {
		return nil, err
	}
	d, err := New(ctx, c)
	if err != nil {
		return nil, err
	}
	slog.Info(fmt.Sprintf("containerd successfully booted in %fs", time.Since(start).Seconds()))
	return d, nil
}
