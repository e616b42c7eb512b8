// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"slipway/proxy"
	"slipway/service"
)

// proxyTypes are the types of component that another process may serve, by
// their short names.
var proxyTypes = map[string]string{
	"snapshot": snapshotterType, "content": contentType, "diff": differType, "sandbox": sandboxType,
}

// withProxies puts the configured proxies into the table: in the place of the
// component of that name, or where the first of its type stands, because what
// uses them comes after that.
func (d *Daemon) withProxies() []component {
	all := slices.Clone(components)
	for _, name := range slices.Sorted(keysOf(d.config.ProxyPlugins)) {
		p := d.config.ProxyPlugins[name]
		c := component{typ: p.Type, id: name, open: func(d *Daemon, s *service.Plugin) error { return d.openProxy(s, p) }}
		if long, ok := proxyTypes[p.Type]; ok {
			c.typ = long
		}
		if i := slices.IndexFunc(all, func(o component) bool { return o.uri() == c.uri() }); i >= 0 {
			all[i] = c
			continue
		}
		at := max(0, slices.IndexFunc(all, func(o component) bool { return o.typ == c.typ }))
		all = slices.Insert(all, at, c)
	}
	return all
}

// openProxy connects when the component is used, so that its server may start
// after the daemon.
func (d *Daemon) openProxy(s *service.Plugin, p ProxyPlugin) error {
	s.Exports, s.Capabilities = p.Exports, p.Capabilities
	export(s, "address", p.Address)
	if p.Platform != "" {
		platform, err := platforms.Parse(p.Platform)
		if err != nil {
			return fmt.Errorf("platform of proxy plugin %s: %w", s.ID, err)
		}
		s.Platforms = append(s.Platforms, platform)
	}
	if !slices.Contains(slices.Collect(maps.Values(proxyTypes)), s.Type) {
		return fmt.Errorf("proxy plugin %s of type %q: %w", s.ID, p.Type, errdefs.ErrNotImplemented)
	}
	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(p.Address, "unix://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return fmt.Errorf("proxy plugin %s: %w", s.ID, err)
	}
	d.onClose(conn.Close)
	switch s.Type {
	case contentType:
		d.contents[s.ID] = proxy.NewContent(conn, s.ID)
	case differType:
		d.differs[s.ID] = proxy.NewDiffer(conn, s.ID)
	case sandboxType:
		d.controllers[s.ID] = proxy.NewSandboxes(conn, s.ID)
	case snapshotterType:
		d.snapshotters[s.ID] = proxy.NewSnapshotter(conn, s.ID)
		d.capabilities[s.ID] = p.Capabilities
	}
	return nil
}
