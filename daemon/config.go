// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"slipway/diff"
)

// DefaultConfigPath is read when no other file is named.
const DefaultConfigPath = "/etc/containerd/config.toml"

// ConfigVersion is the form that Config has.
const ConfigVersion = 4

// Config is the configuration file in its newest form. The fields are in the
// order in which they are printed.
type Config struct {
	Version          int                        `toml:"version"`
	Root             string                     `toml:"root"`
	State            string                     `toml:"state"`
	Temp             string                     `toml:"temp"`
	DisabledPlugins  []string                   `toml:"disabled_plugins"`
	RequiredPlugins  []string                   `toml:"required_plugins"`
	OOMScore         int                        `toml:"oom_score"`
	Imports          []string                   `toml:"imports"`
	Debug            DebugConfig                `toml:"debug"`
	Plugins          map[string]any             `toml:"plugins"` // options of the components, see components.go; others as they are
	Cgroup           CgroupConfig               `toml:"cgroup"`
	ProxyPlugins     map[string]ProxyPlugin     `toml:"proxy_plugins,omitempty"`
	Timeouts         map[string]Duration        `toml:"timeouts"`
	StreamProcessors map[string]StreamProcessor `toml:"stream_processors"`
}

// DebugConfig says what is logged, and how.
type DebugConfig struct {
	Level      string `toml:"level"`
	Format     string `toml:"format"` // "text" (also empty) or "json"
	LogTraceID bool   `toml:"log_trace_id" dead:"this build sends no traces"`
}

// CgroupConfig says which cgroup the daemon joins.
type CgroupConfig struct {
	Path string `toml:"path"`
}

// A ProxyPlugin is a component that another process serves on a socket.
type ProxyPlugin struct {
	Type         string            `toml:"type"`
	Address      string            `toml:"address"`
	Platform     string            `toml:"platform"`
	Exports      map[string]string `toml:"exports,omitempty"`
	Capabilities []string          `toml:"capabilities"`
}

// A StreamProcessor is a program that turns layers of one media type into
// another.
type StreamProcessor struct {
	Accepts []string `toml:"accepts"`
	Returns string   `toml:"returns"`
	Path    string   `toml:"path"`
	Args    []string `toml:"args"`
	Env     []string `toml:"env"`
}

// Duration is written as Go does, "1m0s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// String gives the form of the file.
func (d Duration) String() string { return time.Duration(d).String() }

const timeoutPrefix = "io.containerd.timeout."

// DefaultConfig is what an empty file means.
func DefaultConfig() *Config {
	c := &Config{
		Version: ConfigVersion, Root: "/var/lib/containerd", State: "/run/containerd",
		DisabledPlugins: []string{}, RequiredPlugins: []string{}, Imports: []string{"/etc/containerd/conf.d/*.toml"},
		Plugins: map[string]any{},
		Timeouts: map[string]Duration{
			timeoutPrefix + "bolt.open":         0,
			timeoutPrefix + "cri.defercleanup":  Duration(time.Minute),
			timeoutPrefix + "metrics.shimstats": Duration(2 * time.Second),
			timeoutPrefix + "shim.cleanup":      Duration(5 * time.Second),
			timeoutPrefix + "shim.load":         Duration(5 * time.Second),
			timeoutPrefix + "shim.shutdown":     Duration(3 * time.Second),
			timeoutPrefix + "task.state":        Duration(2 * time.Second),
		},
		StreamProcessors: map[string]StreamProcessor{
			"io.containerd.ocicrypt.decoder.v1.tar":      decoder(""),
			"io.containerd.ocicrypt.decoder.v1.tar.gzip": decoder("+gzip"),
		},
	}
	for _, comp := range components {
		if comp.options != nil {
			c.Plugins[comp.uri()] = comp.options()
		}
	}
	return c
}

// decoder is the processor of encrypted layers that upstream's default names.
func decoder(suffix string) StreamProcessor {
	layer := "application/vnd.oci.image.layer.v1.tar" + suffix
	return StreamProcessor{
		Accepts: []string{layer + "+encrypted"}, Returns: layer, Path: "ctd-decoder",
		Args: []string{"--decryption-keys-path", "/etc/containerd/ocicrypt/keys"},
		Env:  []string{"OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"},
	}
}

// processors are the stream processors in the order of their names.
func (c *Config) processors() (all []diff.Processor) {
	for _, name := range slices.Sorted(keysOf(c.StreamProcessors)) {
		p := c.StreamProcessors[name]
		all = append(all, diff.Processor{Name: name, Accepts: p.Accepts, Returns: p.Returns, Path: p.Path, Args: p.Args, Env: p.Env})
	}
	return all
}

// Write prints the configuration as a file.
func (c *Config) Write(w io.Writer) error {
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).SetIndentTables(true).Encode(c); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// timeout gives the named time-out without its prefix.
func (c *Config) timeout(name string) time.Duration {
	return time.Duration(c.Timeouts[timeoutPrefix+name])
}

// SetAddress moves the socket of the gRPC API, and that of ttrpc along.
func (c *Config) SetAddress(address string) {
	options[grpcOptions](c, "io.containerd.server.v1.grpc").Address = address
	options[ttrpcOptions](c, "io.containerd.server.v1.ttrpc").Address = address + ".ttrpc"
}

// Address is the socket of the gRPC API.
func (c *Config) Address() string {
	return options[grpcOptions](c, "io.containerd.server.v1.grpc").Address
}

// options gives those of a component. The table says their type.
func options[T any](c *Config, uri string) *T { return c.Plugins[uri].(*T) }

func (c *Config) check() error {
	for _, list := range []struct {
		kind string
		uris []string
	}{{"disabled", c.DisabledPlugins}, {"required", c.RequiredPlugins}} {
		for _, uri := range list.uris {
			if !strings.Contains(uri, ".") {
				return fmt.Errorf("invalid %s plugin URI %q expect io.containerd.x.vx: %w", list.kind, uri, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// checkPaths is for the daemon only: other commands read any file.
func (c *Config) checkPaths() error {
	switch {
	case c.Root == "" || c.State == "":
		return fmt.Errorf("root and state must be specified: %w", errdefs.ErrInvalidArgument)
	case filepath.Clean(c.Root) == filepath.Clean(c.State):
		return fmt.Errorf("root and state must be different paths: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// The options of the components. A field tagged dead is accepted, and a value
// that is not the default is reported with the reason.
type (
	grpcOptions struct {
		Address            string `toml:"address"`
		UID                int    `toml:"uid"`
		GID                int    `toml:"gid"`
		MaxRecvMessageSize int    `toml:"max_recv_message_size"`
		MaxSendMessageSize int    `toml:"max_send_message_size"`
	}
	tcpOptions struct {
		Address            string `toml:"address"`
		TLSCA              string `toml:"tls_ca"`
		TLSCert            string `toml:"tls_cert"`
		TLSKey             string `toml:"tls_key"`
		TLSCommonName      string `toml:"tls_common_name"`
		MaxRecvMessageSize int    `toml:"max_recv_message_size"`
		MaxSendMessageSize int    `toml:"max_send_message_size"`
	}
	ttrpcOptions struct { // also those of the debug socket
		Address string `toml:"address"`
		UID     int    `toml:"uid"`
		GID     int    `toml:"gid"`
	}
	metricsOptions struct {
		Address string `toml:"address"`
	}
	prometheusOptions struct {
		GRPCHistogram bool `toml:"grpc_histogram"`
	}
	boltOptions struct {
		SharingPolicy string `toml:"content_sharing_policy"`
		NoSync        bool   `toml:"no_sync"`
	}
	gcOptions struct {
		PauseThreshold    float64  `toml:"pause_threshold"`
		DeletionThreshold int      `toml:"deletion_threshold"`
		MutationThreshold int      `toml:"mutation_threshold"`
		ScheduleDelay     Duration `toml:"schedule_delay"`
		StartupDelay      Duration `toml:"startup_delay"`
	}
	diffOptions struct {
		Default []string `toml:"default"`
		SyncFS  bool     `toml:"sync_fs"`
	}
	tasksOptions struct {
		BlockIOConfigFile string `toml:"blockio_config_file" dead:"block I/O classes are not implemented"`
		RDTConfigFile     string `toml:"rdt_config_file" dead:"RDT classes are not implemented"`
	}
	verifierOptions struct {
		BinDir             string   `toml:"bin_dir"`
		MaxVerifiers       int      `toml:"max_verifiers"`
		PerVerifierTimeout Duration `toml:"per_verifier_timeout"`
	}
	policyOptions struct {
		Path string `toml:"path"`
	}
	optOptions struct {
		Path string `toml:"path"`
	}
	restartOptions struct {
		Interval Duration `toml:"interval"`
	}
	cgroupsOptions struct {
		NoPrometheus bool `toml:"no_prometheus"`
	}
	taskOptions struct {
		Platforms []string `toml:"platforms" dead:"the platform is that of the build"`
	}
	shimOptions struct {
		Env       []string `toml:"env"`
		SocketDir string   `toml:"socket_dir"`
	}
	nativeOptions struct {
		RootPath string `toml:"root_path"`
	}
	overlayOptions struct {
		RootPath      string   `toml:"root_path"`
		UpperdirLabel bool     `toml:"upperdir_label"`
		SyncRemove    bool     `toml:"sync_remove"`
		SlowChown     bool     `toml:"slow_chown"`
		MountOptions  []string `toml:"mount_options"`
	}
	blockfileOptions struct {
		RootPath        string   `toml:"root_path"`
		ScratchFile     string   `toml:"scratch_file"`
		FSType          string   `toml:"fs_type"`
		MountOptions    []string `toml:"mount_options"`
		RecreateScratch bool     `toml:"recreate_scratch"`
	}
	erofsOptions struct {
		RootPath        string   `toml:"root_path"`
		OvlMountOptions []string `toml:"ovl_mount_options"`
		EnableFSVerity  bool     `toml:"enable_fsverity"`
		SetImmutable    bool     `toml:"set_immutable"`
		DefaultSize     string   `toml:"default_size"`
		DMVerityMode    string   `toml:"dmverity_mode"`
	}
	erofsDifferOptions struct {
		MkfsOptions    []string `toml:"mkfs_options"`
		EnableTarIndex bool     `toml:"enable_tar_index" dead:"images hold the files of their layers"`
		EnableDMVerity bool     `toml:"enable_dmverity"`
	}
	transferOptions struct {
		MaxConcurrentDownloads      int            `toml:"max_concurrent_downloads"`
		ConcurrentLayerFetchBuffer  int            `toml:"concurrent_layer_fetch_buffer" dead:"whether and how a blob is fetched in parts depends on its size and the speed of its server"`
		MaxConcurrentUploadedLayers int            `toml:"max_concurrent_uploaded_layers"`
		CheckPlatformSupported      bool           `toml:"check_platform_supported" dead:"the platform of an unpack is that of its request"`
		ConfigPath                  string         `toml:"config_path"`
		MaxConcurrentUnpacks        int            `toml:"max_concurrent_unpacks"`
		UnpackConfig                []unpackConfig `toml:"unpack_config,omitempty"`
	}
	unpackConfig struct {
		Platform    string   `toml:"platform"`
		Snapshotter string   `toml:"snapshotter"`
		Differ      string   `toml:"differ"`
		ConfigType  string   `toml:"config_type"`
		LayerTypes  []string `toml:"layer_types"`
		Optional    bool     `toml:"optional"`
	}
)

// defaultPolicy may be missing; a file that is configured may not.
const defaultPolicy = "/etc/containerd/policy.toml"

const maxMessage = 16 << 20

func grpcDefaults() any {
	return &grpcOptions{Address: "/run/containerd/containerd.sock", MaxRecvMessageSize: maxMessage, MaxSendMessageSize: maxMessage}
}
func tcpDefaults() any {
	return &tcpOptions{MaxRecvMessageSize: maxMessage, MaxSendMessageSize: maxMessage}
}
func ttrpcDefaults() any      { return &ttrpcOptions{Address: "/run/containerd/containerd.sock.ttrpc"} }
func debugDefaults() any      { return &ttrpcOptions{} }
func metricsDefaults() any    { return &metricsOptions{} }
func prometheusDefaults() any { return &prometheusOptions{} }
func boltDefaults() any       { return &boltOptions{SharingPolicy: "shared"} }
func gcDefaults() any {
	return &gcOptions{PauseThreshold: 0.02, MutationThreshold: 100, StartupDelay: Duration(100 * time.Millisecond)}
}
func diffDefaults() any  { return &diffOptions{Default: []string{"walking"}} }
func tasksDefaults() any { return &tasksOptions{} }
func verifierDefaults() any {
	return &verifierOptions{BinDir: "/opt/containerd/image-verifier/bin", MaxVerifiers: 10, PerVerifierTimeout: Duration(10 * time.Second)}
}
func policyDefaults() any      { return &policyOptions{Path: defaultPolicy} }
func optDefaults() any         { return &optOptions{Path: "/opt/containerd"} }
func restartDefaults() any     { return &restartOptions{Interval: Duration(10 * time.Second)} }
func cgroupsDefaults() any     { return &cgroupsOptions{} }
func taskDefaults() any        { return &taskOptions{Platforms: []string{platform()}} }
func shimDefaults() any        { return &shimOptions{Env: []string{}} }
func nativeDefaults() any      { return &nativeOptions{} }
func overlayDefaults() any     { return &overlayOptions{MountOptions: []string{}} }
func blockfileDefaults() any   { return &blockfileOptions{MountOptions: []string{}} }
func erofsDefaults() any       { return &erofsOptions{OvlMountOptions: []string{}} }
func erofsDifferDefaults() any { return &erofsDifferOptions{MkfsOptions: []string{}} }
func transferDefaults() any {
	return &transferOptions{MaxConcurrentDownloads: 3, MaxConcurrentUploadedLayers: 3, MaxConcurrentUnpacks: 1}
}

// platform is the one that this build runs.
func platform() string { return "linux/" + runtime.GOARCH }
