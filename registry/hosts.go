// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// capability is what a host may be asked.
type capability uint8

const (
	canPull capability = 1 << iota
	canResolve
	canPush
	canReferrers
	canAll = canPull | canResolve | canPush | canReferrers
)

var capabilities = map[string]capability{"pull": canPull, "resolve": canResolve, "push": canPush, "referrers": canReferrers}

func (c capability) String() string {
	for name, v := range capabilities {
		if v == c {
			return name
		}
	}
	return fmt.Sprint(uint8(c))
}

// site is how one host is reached, before a connection exists.
type site struct {
	scheme, address, path string // path ends in /v2, or is as configured
	can                   capability
	tls                   tlsFiles
	header                http.Header
	dial                  time.Duration
}

// apiHost is where the API of a registry is, if not at its name.
func apiHost(registry string) string {
	if registry == "docker.io" {
		return "registry-1.docker.io"
	}
	return registry
}

// findHosts lists the hosts that serve a registry, in the order to try them.
func findHosts(registry string, opts Options) ([]*host, error) {
	sites, err := configured(registry, opts)
	if err != nil {
		return nil, err
	}
	var hosts []*host
	for _, s := range sites {
		h, err := newHost(s, registry, opts)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// configured reads the directory of hosts, or falls back on the registry
// itself.
func configured(registry string, opts Options) ([]site, error) {
	own := site{address: apiHost(registry), path: "/v2", can: canAll, tls: tlsFiles{skip: opts.SkipVerify}}
	if opts.CA != "" {
		own.tls.ca = []string{opts.CA}
	}
	if opts.Cert != "" {
		own.tls.pairs = [][2]string{{opts.Cert, opts.Key}}
	}
	dir := hostDir(opts.HostsDir, registry)
	if dir == "" {
		own.scheme = scheme(own, opts.PlainHTTP)
		return []site{own}, nil
	}
	sites, err := readHosts(filepath.Join(dir, "hosts.toml"), own)
	if err == nil && len(sites) > 0 {
		return sites, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Upstream goes on without the file, and so would a pull that worked.
		slog.Warn("hosts file is ignored", "registry", registry, "error", err)
	}
	if err := own.tls.dockerLayout(dir); err != nil {
		return nil, err
	}
	own.scheme = scheme(own, opts.PlainHTTP)
	return []site{own}, nil
}

// hostDir finds the directory of a registry below root.
func hostDir(root, registry string) string {
	if root == "" {
		return ""
	}
	names := []string{registry, "_default"}
	if h, port, err := net.SplitHostPort(registry); err == nil {
		names = []string{h + "_" + port + "_", registry, h, "_default"}
	}
	for _, n := range names {
		dir := filepath.Join(root, n)
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir
		}
	}
	return ""
}

// scheme is http where asked for and on loopback, unless TLS is configured.
func scheme(s site, plain bool) string {
	if plain || isLocal(s.address) && port(s.address) != "443" && !s.tls.set() {
		return "http"
	}
	return "https"
}

func port(address string) string {
	if _, p, err := net.SplitHostPort(address); err == nil {
		return p
	}
	return ""
}

func isLocal(address string) bool {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		h = address
	}
	ip := net.ParseIP(strings.Trim(h, "[]"))
	return h == "localhost" || ip != nil && ip.IsLoopback()
}

// hostsFile is hosts.toml.
type hostsFile struct {
	Server string `toml:"server"`
	hostEntry
	Hosts map[string]hostEntry `toml:"host"`
}

type hostEntry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// readHosts lists the mirrors of a hosts.toml and then its server.
func readHosts(file string, own site) ([]site, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var f hostsFile
	if err := toml.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(data) == 0 {
		return nil, nil
	}
	var sites []site
	for _, name := range hostOrder(data) {
		s, err := f.Hosts[name].site(name, filepath.Dir(file), site{})
		if err != nil {
			return nil, fmt.Errorf("%s: host %s: %w", file, name, err)
		}
		sites = append(sites, s)
	}
	server := f.Server
	if server == "" {
		server = "https://" + own.address
		own.scheme = scheme(own, false)
		server = own.scheme + "://" + own.address
	}
	s, err := f.hostEntry.site(server, filepath.Dir(file), own)
	if err != nil {
		return nil, fmt.Errorf("%s: server %s: %w", file, server, err)
	}
	return append(sites, s), nil
}

// hostOrder gives the names of the [host."…"] tables as the file has them:
// the order in which mirrors are tried, which a map would lose.
func hostOrder(data []byte) (names []string) {
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var key []string
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
		}
		if len(key) >= 2 && key[0] == "host" && !slices.Contains(names, key[1]) {
			names = append(names, key[1])
		}
	}
	return names
}

// site combines an entry with what base says.
func (e hostEntry) site(name, dir string, base site) (s site, err error) {
	s = base
	if !strings.HasPrefix(name, "http") {
		name = "https://" + name
	}
	var rest string
	var ok bool
	if s.scheme, rest, ok = strings.Cut(name, "://"); !ok || s.scheme != "http" && s.scheme != "https" {
		return s, fmt.Errorf("%q is not a URL: %w", name, errdefs.ErrInvalidArgument)
	}
	address, p, _ := strings.Cut(rest, "/")
	s.address = apiHost(address)
	s.path = strings.TrimSuffix(path.Clean("/"+p), "/")
	if !e.OverridePath && !strings.HasSuffix(s.path, "/v2") {
		s.path += "/v2"
	}
	if s.can, err = e.capabilities(); err != nil {
		return s, err
	}
	if e.DialTimeout != "" {
		if s.dial, err = time.ParseDuration(e.DialTimeout); err != nil {
			return s, fmt.Errorf("dial_timeout: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	if e.SkipVerify != nil {
		s.tls.skip = *e.SkipVerify
	}
	if s.header, err = headerOf(e.Header); err != nil {
		return s, err
	}
	return s, s.tls.add(dir, e.CA, e.Client)
}

func (e hostEntry) capabilities() (c capability, err error) {
	if len(e.Capabilities) == 0 {
		return canAll, nil
	}
	for _, name := range e.Capabilities {
		v, ok := capabilities[strings.ToLower(name)]
		if !ok {
			return 0, fmt.Errorf("unknown capability %q: %w", name, errdefs.ErrInvalidArgument)
		}
		c |= v
	}
	return c, nil
}

func headerOf(m map[string]any) (http.Header, error) {
	h := http.Header{}
	for k, v := range m {
		list, err := stringsOf(v)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", k, err)
		}
		h[http.CanonicalHeaderKey(k)] = list
	}
	return h, nil
}

// stringsOf reads a string or a list of strings.
func stringsOf(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var list []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not a string: %w", e, errdefs.ErrInvalidArgument)
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, fmt.Errorf("%v is neither a string nor a list of them: %w", v, errdefs.ErrInvalidArgument)
}
