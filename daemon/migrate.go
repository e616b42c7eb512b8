// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"slices"
	"strings"
)

// migrate brings the values into the newest form. What has no place there is
// left where it is, for the check to report.
func (d *document) migrate() {
	if d.version < 2 {
		d.migrateNames()
	}
	if d.version < 4 {
		d.move("plugins/io.containerd.internal.v1.restart", "plugins/io.containerd.monitor.container.v1.restart")
		d.move("plugins/io.containerd.monitor.v1.cgroups", "plugins/io.containerd.monitor.task.v1.cgroups")
		d.renameLists(map[string]string{
			"io.containerd.internal.v1.restart": "io.containerd.monitor.container.v1.restart",
			"io.containerd.monitor.v1.cgroups":  "io.containerd.monitor.task.v1.cgroups",
		})
		d.migrateServers()
	}
	d.values["version"] = int64(ConfigVersion)
}

// shortNames are the components whose short name of version 1 does not say
// their type: those that end in -service are services, the others gRPC
// services.
var shortNames = map[string]string{
	"linux": "io.containerd.runtime.v1", "task": "io.containerd.runtime.v2",
	"scheduler": "io.containerd.gc.v1", "bolt": "io.containerd.metadata.v1",
	"opt": "io.containerd.internal.v1", "restart": "io.containerd.internal.v1", "tracing": "io.containerd.internal.v1",
	"otlp": "io.containerd.tracing.processor.v1", "cgroups": "io.containerd.monitor.v1",
	"aufs": "io.containerd.snapshotter.v1", "btrfs": "io.containerd.snapshotter.v1", "devmapper": "io.containerd.snapshotter.v1",
	"native": "io.containerd.snapshotter.v1", "overlayfs": "io.containerd.snapshotter.v1", "zfs": "io.containerd.snapshotter.v1",
}

func longName(name string) string {
	switch typ, ok := shortNames[name]; {
	case strings.HasPrefix(name, "io.containerd."):
		return name
	case ok:
		return typ + "." + name
	case strings.HasSuffix(name, "-service"):
		return "io.containerd.service.v1." + name
	}
	return "io.containerd.grpc.v1." + name
}

func (d *document) migrateNames() {
	plugins, _ := d.values["plugins"].(map[string]any)
	for name := range plugins {
		if long := longName(name); long != name {
			d.move("plugins/"+name, "plugins/"+long)
		}
	}
	for _, list := range d.pluginLists() {
		for i, v := range list {
			if name, ok := v.(string); ok {
				list[i] = longName(name)
			}
		}
	}
}

func (d *document) renameLists(names map[string]string) {
	for _, list := range d.pluginLists() {
		for i, v := range list {
			if name, ok := v.(string); ok && names[name] != "" {
				list[i] = names[name]
			}
		}
	}
}

func (d *document) pluginLists() [][]any {
	disabled, _ := d.values["disabled_plugins"].([]any)
	required, _ := d.values["required_plugins"].([]any)
	return [][]any{disabled, required}
}

// migrateServers moves what version 4 made options of components.
func (d *document) migrateServers() {
	const server = "plugins/io.containerd.server.v1."
	grpc, _ := d.values["grpc"].(map[string]any)
	ttrpc, _ := d.values["ttrpc"].(map[string]any)
	if address, _ := grpc["address"].(string); address != "" && (ttrpc["address"] == nil || ttrpc["address"] == "") {
		d.set(server+"ttrpc/address", address+".ttrpc", "grpc/address")
		for _, k := range []string{"uid", "gid"} {
			if v, ok := grpc[k]; ok {
				d.set(server+"ttrpc/"+k, v, "grpc/"+k)
			}
		}
	}
	for _, k := range []string{"address", "uid", "gid"} {
		d.move("grpc/"+k, server+"grpc/"+k)
		d.move("ttrpc/"+k, server+"ttrpc/"+k)
		d.move("debug/"+k, server+"debug/"+k)
	}
	for _, k := range []string{"max_recv_message_size", "max_send_message_size"} {
		if v, ok := grpc[k]; ok {
			d.set(server+"grpc-tcp/"+k, v, "grpc/"+k)
		}
		d.move("grpc/"+k, server+"grpc/"+k)
	}
	d.move("grpc/tcp_address", server+"grpc-tcp/address")
	for _, k := range []string{"ca", "cert", "key", "common_name"} {
		d.move("grpc/tcp_tls_"+k, server+"grpc-tcp/tls_"+k)
	}
	d.move("metrics/address", server+"metrics/address")
	d.move("metrics/grpc_histogram", "plugins/io.containerd.metrics.v1.grpc-prometheus/grpc_histogram")
	d.migrateSchedCore()
	for _, table := range []string{"grpc", "ttrpc", "metrics"} {
		if t, ok := d.values[table].(map[string]any); ok && len(t) == 0 {
			delete(d.values, table)
		}
	}
}

// migrateSchedCore turns the option into what the shim reads.
func (d *document) migrateSchedCore() {
	const from, to = "plugins/io.containerd.runtime.v2.task/sched_core", "plugins/io.containerd.shim.v1.manager/env"
	table, key := d.find(from, false)
	on, _ := table[key].(bool)
	delete(table, key)
	if !on {
		return
	}
	shim, _ := d.find(to, true)
	d.set(to, append(union(shim["env"], nil), "SCHED_CORE=1"), from)
}

// find gives the table that a path ends in, and its last key. A missing table
// is made if asked for, or nil.
func (d *document) find(path string, create bool) (map[string]any, string) {
	keys := strings.Split(path, "/")
	table := d.values
	for _, k := range keys[:len(keys)-1] {
		next, ok := table[k].(map[string]any)
		if !ok && (!create || table[k] != nil) {
			return nil, ""
		}
		if !ok {
			next = map[string]any{}
			table[k] = next
		}
		table = next
	}
	return table, keys[len(keys)-1]
}

// move takes a value, or a table, to another place, unless that is taken.
func (d *document) move(from, to string) {
	src, key := d.find(from, false)
	v, ok := src[key]
	if !ok {
		return
	}
	dst, newKey := d.find(to, true)
	if dst == nil {
		return
	}
	old, isTable := dst[newKey].(map[string]any)
	table, both := v.(map[string]any)
	switch {
	case isTable && both:
		deepMerge(table, old)
		dst[newKey] = table
	case dst[newKey] == nil:
		dst[newKey] = v
	}
	delete(src, key)
	d.movePlaces(from, to)
}

func (d *document) movePlaces(from, to string) {
	from, to = strings.ReplaceAll(from, "/", pathSep), strings.ReplaceAll(to, "/", pathSep)
	for _, path := range slices.Collect(keysOf(d.places)) {
		rest, ok := strings.CutPrefix(path, from)
		if !ok || rest != "" && !strings.HasPrefix(rest, pathSep) {
			continue
		}
		if _, taken := d.places[to+rest]; !taken {
			d.places[to+rest] = d.places[path]
		}
		delete(d.places, path)
	}
}

// set writes a value that the file has elsewhere, unless it has this one too.
func (d *document) set(path string, v any, origin string) {
	table, key := d.find(path, true)
	if _, ok := table[key]; ok || table == nil {
		return
	}
	table[key] = v
	d.places[strings.ReplaceAll(path, "/", pathSep)] = d.place(strings.Split(origin, "/"))
}
