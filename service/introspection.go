// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	api "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/internal/filter"
)

// A Plugin is a component of the daemon as clients see it.
type Plugin struct {
	Type, ID     string
	Requires     []string // types
	Platforms    []ocispec.Platform
	Exports      map[string]string
	Capabilities []string
	// InitErr is why it does not run, errdefs.ErrNotImplemented if it was
	// skipped.
	InitErr error
}

// A Deprecation is a use of something that will go away.
type Deprecation struct {
	ID, Message    string
	LastOccurrence time.Time
}

// IntrospectionConfig is what the daemon tells of itself. Plugins and UUIDFile
// are required.
type IntrospectionConfig struct {
	Plugins      func() []Plugin
	Deprecations func() []Deprecation
	UUIDFile     string // made on demand
	// RuntimeInfo asks the shim of a runtime what it is.
	RuntimeInfo func(ctx context.Context, runtime string, options *anypb.Any) (*types.RuntimeInfo, error)
}

// Introspection serves containerd.services.introspection.v1.Introspection.
type Introspection struct {
	api.UnimplementedIntrospectionServer
	config IntrospectionConfig

	mu   sync.Mutex
	uuid string // once it is known
}

// NewIntrospection returns the service.
func NewIntrospection(c IntrospectionConfig) *Introspection { return &Introspection{config: c} }

// Register puts the service on a server.
func (s *Introspection) Register(r grpc.ServiceRegistrar) { api.RegisterIntrospectionServer(r, s) }

// Plugins gives the components that match.
func (s *Introspection) Plugins(_ context.Context, r *api.PluginsRequest) (*api.PluginsResponse, error) {
	match, err := filter.Parse(r.Filters...)
	if err != nil {
		return nil, err
	}
	resp := &api.PluginsResponse{}
	for _, p := range s.config.Plugins() {
		if match(p.field) {
			resp.Plugins = append(resp.Plugins, pluginProto(p))
		}
	}
	return resp, nil
}

func (p Plugin) field(path []string) (string, bool) {
	switch path[0] {
	case "type":
		return p.Type, len(path) == 1
	case "id":
		return p.ID, len(path) == 1
	}
	return "", false
}

func pluginProto(p Plugin) *api.Plugin {
	out := &api.Plugin{
		Type: p.Type, ID: p.ID, Requires: p.Requires, Platforms: protos(p.Platforms, platformProto),
		Exports: p.Exports, Capabilities: p.Capabilities,
	}
	if p.InitErr != nil {
		out.InitErr = status.Convert(errgrpc.ToGRPC(p.InitErr)).Proto()
	}
	return out
}

// Server says which installation this is, and which process.
func (s *Introspection) Server(context.Context, *emptypb.Empty) (*api.ServerResponse, error) {
	uuid, err := s.identity()
	if err != nil {
		return nil, err
	}
	pidns, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	resp := &api.ServerResponse{UUID: uuid, Pid: uint64(os.Getpid()), Pidns: pidns.Sys().(*syscall.Stat_t).Ino}
	if s.config.Deprecations != nil {
		for _, d := range s.config.Deprecations() {
			resp.Deprecations = append(resp.Deprecations, &api.DeprecationWarning{
				ID: d.ID, Message: d.Message, LastOccurrence: timestamppb.New(d.LastOccurrence),
			})
		}
	}
	return resp, nil
}

// identity reads the UUID of the installation and makes it the first time.
func (s *Introspection) identity() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uuid != "" {
		return s.uuid, nil
	}
	text, err := os.ReadFile(s.config.UUIDFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if s.uuid = strings.TrimSpace(string(text)); s.uuid != "" {
		return s.uuid, nil
	}
	uuid := newUUID()
	if err := writeFile(s.config.UUIDFile, uuid); err != nil {
		return "", err
	}
	s.uuid = uuid
	return uuid, nil
}

// newUUID makes a random one, RFC 9562 section 5.4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// writeFile writes a file so that a crash leaves it whole or absent.
func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(text), 0o666); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// PluginInfo describes a component and, to a request with options, what only
// it knows of itself: the runtime asks a shim.
func (s *Introspection) PluginInfo(ctx context.Context, r *api.PluginInfoRequest) (*api.PluginInfoResponse, error) {
	p, err := s.find(r.Type, r.ID)
	if err != nil {
		return nil, err
	}
	resp := &api.PluginInfoResponse{Plugin: pluginProto(p)}
	if r.Options == nil {
		return resp, nil
	}
	if p.Type != "io.containerd.runtime.v2" || p.ID != "task" || s.config.RuntimeInfo == nil {
		return nil, fmt.Errorf("plugin %s.%s has no info to give: %w", p.Type, p.ID, errdefs.ErrNotImplemented)
	}
	var req types.RuntimeRequest
	if !typeurl.Is(r.Options, &req) {
		return nil, fmt.Errorf("plugin %s.%s: request of type %q: %w", p.Type, p.ID, r.Options.TypeUrl, errdefs.ErrNotImplemented)
	}
	if err := typeurl.UnmarshalTo(r.Options, &req); err != nil {
		return nil, fmt.Errorf("options of plugin %s.%s: %w: %w", p.Type, p.ID, err, errdefs.ErrInvalidArgument)
	}
	info, err := s.config.RuntimeInfo(ctx, req.RuntimePath, req.Options)
	if err != nil {
		return nil, err
	}
	resp.Extra, err = typeurl.MarshalAnyToProto(info)
	return resp, err
}

func (s *Introspection) find(kind, id string) (Plugin, error) {
	for _, p := range s.config.Plugins() {
		if p.Type == kind && p.ID == id {
			return p, nil
		}
	}
	return Plugin{}, fmt.Errorf("plugin %s.%s: %w", kind, id, errdefs.ErrNotFound)
}
