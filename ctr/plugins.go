// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

func pluginCommands() []command {
	return []command{
		{use: "list [FILTER...]", aliases: []string{"ls"}, short: "List plugins", declare: listPlugins},
		{use: "inspect-runtime", short: "Show what a runtime can do", declare: inspectRuntime},
	}
}

func listPlugins(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the ids")
	detailed := f.BoolP("detailed", "d", false, "Print all that is known")
	return func(s *session, filters []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Introspection().Plugins(s.ctx, &introspectionapi.PluginsRequest{Filters: filters})
		if err != nil {
			return err
		}
		switch {
		case *quiet:
			for _, p := range resp.Plugins {
				fmt.Fprintln(s.out, p.ID)
			}
			return nil
		case *detailed:
			return s.pluginDetails(resp.Plugins)
		}
		w := s.table(4, 4, "TYPE\tID\tPLATFORMS\tSTATUS\t")
		for _, p := range resp.Plugins {
			on := platformList(p.Platforms)
			if on == "" {
				on = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", p.Type, p.ID, on, pluginStatus(p))
		}
		return w.Flush()
	}
}

// pluginStatus tells a plugin that chose not to run from one that could not,
// which the daemon says in words only.
func pluginStatus(p *introspectionapi.Plugin) string {
	switch {
	case p.InitErr == nil:
		return "ok"
	case strings.Contains(p.InitErr.Message, "skip plugin"):
		return "skip"
	}
	return "error"
}

func (s *session) pluginDetails(plugins []*introspectionapi.Plugin) error {
	w := tabwriter.NewWriter(s.out, 4, 8, 4, ' ', 0)
	for i, p := range plugins {
		if i > 0 {
			fmt.Fprintln(w, "\t\t\t")
		}
		pluginDetail(w, p)
	}
	return w.Flush()
}

func pluginDetail(w io.Writer, p *introspectionapi.Plugin) {
	fmt.Fprintln(w, "Type:\t", p.Type)
	fmt.Fprintln(w, "ID:\t", p.ID)
	if len(p.Requires) > 0 {
		fmt.Fprintln(w, "Requires:\t")
		for _, r := range p.Requires {
			fmt.Fprintln(w, "\t", r)
		}
	}
	if len(p.Platforms) > 0 {
		fmt.Fprintln(w, "Platforms:\t", platformList(p.Platforms))
	}
	if len(p.Exports) > 0 {
		fmt.Fprintln(w, "Exports:\t")
		for _, e := range pairs(p.Exports) {
			k, v, _ := strings.Cut(e, "=")
			fmt.Fprintln(w, "\t", k, "\t", v)
		}
	}
	if len(p.Capabilities) > 0 {
		fmt.Fprintln(w, "Capabilities:\t", strings.Join(p.Capabilities, ","))
	}
	if p.InitErr != nil {
		fmt.Fprintln(w, "Error:\t")
		fmt.Fprintln(w, "\t Code:\t", codes.Code(p.InitErr.Code))
		fmt.Fprintln(w, "\t Message:\t", p.InitErr.Message)
	}
}

func platformList(list []*types.Platform) string {
	var names []string
	for _, p := range list {
		names = append(names, platforms.Format(ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

func inspectRuntime(f flagSet) action {
	flags := runtimeOf(f)
	return func(s *session, _ []string) error {
		options, err := flags.options()
		if err != nil {
			return err
		}
		request, err := typeurl.MarshalAnyToProto(&types.RuntimeRequest{RuntimePath: flags.name, Options: options})
		if err != nil {
			return err
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Introspection().PluginInfo(s.ctx, &introspectionapi.PluginInfoRequest{
			Type: "io.containerd.runtime.v2", ID: "task", Options: request,
		})
		if err != nil {
			return err
		}
		return s.runtimeInfo(resp.Extra)
	}
}

// runtimeRecord is how what a runtime can do is printed.
type runtimeRecord struct {
	Name    string
	Version struct{ Version, Revision string }
	// What the runtime chose to say, as JSON documents.
	Options, Features any
	Annotations       map[string]string
}

func (s *session) runtimeInfo(a *anypb.Any) (err error) {
	var info types.RuntimeInfo
	if err := typeurl.UnmarshalTo(a, &info); err != nil {
		return err
	}
	r := runtimeRecord{Name: info.Name, Annotations: info.Annotations}
	r.Version.Version, r.Version.Revision = info.Version.GetVersion(), info.Version.GetRevision()
	if info.Options != nil {
		if r.Options, err = decode(info.Options); err != nil {
			return err
		}
	}
	if info.Features != nil {
		if r.Features, err = decode(info.Features); err != nil {
			return err
		}
	}
	return s.json(r)
}
