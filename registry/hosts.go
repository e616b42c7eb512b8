// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
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

// An Endpoint is a host that serves a registry, as it is configured.
type Endpoint struct {
	URL          string
	Capabilities []string // pull, push, referrers, resolve
	SkipVerify   bool     // of its certificate
}

// Endpoints lists the hosts that serve a registry, in the order to try them.
// It reads files and sends nothing.
func Endpoints(registry string, opts Options) ([]Endpoint, error) {
	sites, err := configured(registry, opts)
	if err != nil {
		return nil, err
	}
	var all []Endpoint
	for _, s := range sites {
		e := Endpoint{URL: s.scheme + "://" + s.address + s.path, SkipVerify: s.tls.skip}
		for _, name := range slices.Sorted(maps.Keys(capabilities)) {
			if s.can&capabilities[name] != 0 {
				e.Capabilities = append(e.Capabilities, name)
			}
		}
		all = append(all, e)
	}
	return all, nil
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
// itself. A broken file is an error: a pull that quietly passes a mirror by
// sends its traffic, and maybe its credentials, where they should not go.
func configured(registry string, opts Options) ([]site, error) {
	own := site{address: apiHost(registry), path: "/v2", can: canAll, tls: tlsFiles{skip: opts.SkipVerify}}
	if opts.CA != "" {
		own.tls.ca = []string{opts.CA}
	}
	if opts.Cert != "" {
		own.tls.pairs = [][2]string{{opts.Cert, opts.Key}}
	}
	if dir := hostDir(opts.HostsDir, registry); dir != "" {
		sites, err := readHosts(filepath.Join(dir, "hosts.toml"), own, opts.PlainHTTP)
		if err != nil && !errors.Is(err, fs.ErrNotExist) || len(sites) > 0 {
			return sites, err
		}
		if err := own.tls.dockerLayout(dir); err != nil {
			return nil, err
		}
	}
	own.settle(opts.PlainHTTP)
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

// settle chooses the scheme of a registry that no file describes. One on the
// loopback interface may speak either: it is tried with https, without
// looking at the certificate, and then with http.
func (s *site) settle(plain bool) {
	s.scheme = "https"
	p := port(s.address)
	switch {
	case plain:
		s.scheme = "http"
	case isLocal(s.address) && p != "" && p != "443":
		s.scheme = "http"
		s.tls.skip = s.tls.skip || p != "80" && !s.tls.set()
	}
}

// either reports whether s is to be tried with https first and then with
// http: it was told to be http, but something about TLS is set.
func (s *site) either() bool {
	return s.scheme == "http" && s.tls.set() && port(s.address) != "80"
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

// readHosts reads a hosts.toml. An empty one gives nothing.
func readHosts(file string, own site, plain bool) ([]site, error) {
	data, err := os.ReadFile(file)
	if err != nil || len(data) == 0 {
		return nil, err
	}
	var f hostsFile
	if err := toml.Unmarshal(data, &f); err != nil {
		line := 0
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ = at.Position()
		}
		return nil, fmt.Errorf("%s:%d: %w: %w", file, line, err, errdefs.ErrInvalidArgument)
	}
	var sites []site
	tables := hostTables(data)
	for _, t := range tables {
		s, err := f.Hosts[t.name].site(t.name, filepath.Dir(file), site{})
		if err != nil {
			return nil, fmt.Errorf("%s:%d: host %s: %w", file, t.line, t.name, err)
		}
		sites = append(sites, s)
	}
	server := f.Server
	if server == "" {
		own.settle(plain)
		server = own.scheme + "://" + own.address
	}
	s, err := f.hostEntry.site(server, filepath.Dir(file), own)
	if err != nil {
		return nil, fmt.Errorf("%s:1: server %s: %w", file, server, err)
	}
	return append(sites, s), nil
}

// hostTable is where a [host."…"] begins.
type hostTable struct {
	name string
	line int
}

// hostTables lists the hosts in the order of the file, which a map forgets.
func hostTables(data []byte) (tables []hostTable) {
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var key []string
		line := 0
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
			line = p.Shape(it.Node().Raw).Start.Line
		}
		known := func(t hostTable) bool { return t.name == key[1] }
		if len(key) >= 2 && key[0] == "host" && !slices.ContainsFunc(tables, known) {
			tables = append(tables, hostTable{key[1], line})
		}
	}
	return tables
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
