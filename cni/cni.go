// SPDX-License-Identifier: Apache-2.0

// Package cni attaches containers to the networks of a host, by the plugins
// that the Container Network Interface describes (CNI spec 1.1).
//
// A network is one file of the configuration directory; its plugins are
// programs. An attachment is one container's interface on it. Each container
// gets the loopback interface and one attachment, eth0, to the first network in
// the order of the file names, as containerd does.
//
// The package makes no network namespace and keeps no state but the plugins'
// own cache, from which an attachment is taken down as it was made even if its
// configuration has changed since.
package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// Config says where networks and plugins are. The zero value is the usual
// places.
type Config struct {
	ConfDir  string   // /etc/cni/net.d if empty
	BinDirs  []string // /opt/cni/bin and /usr/lib/cni if empty
	CacheDir string   // /var/lib/cni if empty
}

// Networks are those that a container is attached to.
type Networks struct {
	plugins *libcni.CNIConfig
	lists   []attachment // in the order in which they are set up
}

type attachment struct {
	list *libcni.NetworkConfigList
	name string // of the interface in the container
}

// A Port is a port of the host that leads to one of the container.
type Port struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"`
}

// A Result is what the plugins say of eth0.
type Result struct {
	IPs         []net.IPNet
	Gateways    []net.IP
	Nameservers []string
	Search      []string
	Options     []string
}

const loopback = `{"cniVersion": "0.4.0", "name": "cni-loopback", "plugins": [{"type": "loopback"}]}`

// FromEnv is the zero value with what cnitool's variables say: NETCONFPATH, a
// directory, and CNI_PATH, a list of them.
func FromEnv() Config {
	return Config{ConfDir: os.Getenv("NETCONFPATH"), BinDirs: filepath.SplitList(os.Getenv("CNI_PATH"))}
}

// Load reads the first network of the configuration directory. It fails as
// errdefs.ErrNotFound if there is none.
func Load(c Config) (*Networks, error) {
	if c.ConfDir == "" {
		c.ConfDir = "/etc/cni/net.d"
	}
	if len(c.BinDirs) == 0 {
		c.BinDirs = []string{"/opt/cni/bin", "/usr/lib/cni"}
	}
	first, err := firstNetwork(c.ConfDir)
	if err != nil {
		return nil, err
	}
	lo, err := libcni.ConfListFromBytes([]byte(loopback))
	if err != nil {
		return nil, err
	}
	return &Networks{
		plugins: libcni.NewCNIConfigWithCacheDir(c.BinDirs, c.CacheDir, nil),
		lists:   []attachment{{lo, "lo"}, {first, "eth0"}},
	}, nil
}

func firstNetwork(dir string) (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no network configuration in %s: %w", dir, errdefs.ErrNotFound)
	}
	slices.Sort(files)
	list, err := read(files[0])
	if err != nil {
		return nil, fmt.Errorf("network configuration %s: %w", files[0], err)
	}
	if len(list.Plugins) == 0 {
		return nil, fmt.Errorf("network configuration %s: no plugins", files[0])
	}
	return list, nil
}

func read(file string) (*libcni.NetworkConfigList, error) {
	if strings.HasSuffix(file, ".conflist") {
		return libcni.ConfListFromFile(file)
	}
	one, err := libcni.ConfFromFile(file)
	if err != nil {
		return nil, err
	}
	if one.Network.Type == "" {
		return nil, errors.New("no plugin type")
	}
	return libcni.ConfListFromConf(one)
}

// Setup attaches the container id, whose network namespace is the file netns,
// and maps ports to it. When it fails, nothing stays attached.
func (n *Networks) Setup(ctx context.Context, id, netns string, ports []Port) (_ *Result, err error) {
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
			defer cancel()
			err = errors.Join(err, n.Remove(ctx, id, netns, ports))
		}
	}()
	var result *Result
	for _, a := range n.lists {
		r, err := n.plugins.AddNetworkList(ctx, a.list, a.runtime(id, netns, ports))
		if err != nil {
			return nil, fmt.Errorf("container %s: attach %s to network %s: %w", id, a.name, a.list.Name, err)
		}
		full, err := current.NewResultFromResult(r)
		if err != nil {
			return nil, fmt.Errorf("container %s: result of network %s: %w", id, a.list.Name, err)
		}
		result = convert(full)
	}
	return result, nil
}

const undoTime = 30 * time.Second

// attempts is how often a plugin is asked to detach before it is given up.
// Plugins fail for a moment, for example when another holds the lock of the
// packet filter, and what they then leave is an address that is lost.
const attempts = 3

// Remove detaches a container. A container that is not attached, or whose
// namespace is gone, is no error: the plugins still free its address.
func (n *Networks) Remove(ctx context.Context, id, netns string, ports []Port) error {
	if _, err := os.Stat(netns); errors.Is(err, fs.ErrNotExist) {
		netns = ""
	}
	var errs []error
	for _, a := range slices.Backward(n.lists) {
		if err := n.detach(ctx, a, id, netns, ports); err != nil {
			errs = append(errs, fmt.Errorf("container %s: detach %s from network %s: %w", id, a.name, a.list.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Networks) detach(ctx context.Context, a attachment, id, netns string, ports []Port) (err error) {
	list, rt := n.made(a.list, a.runtime(id, netns, ports))
	for range attempts {
		if err = n.plugins.DelNetworkList(ctx, list, rt); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// made returns the network as it was when the container was attached to it,
// and rt with the ports that were mapped then, unless it names others.
func (n *Networks) made(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (*libcni.NetworkConfigList, *libcni.RuntimeConf) {
	text, then, err := n.plugins.GetNetworkListCachedConfig(list, rt)
	if err != nil || len(text) == 0 {
		return list, rt
	}
	if rt.CapabilityArgs == nil {
		rt.CapabilityArgs = then.CapabilityArgs
	}
	if was, err := libcni.ConfListFromBytes(text); err == nil {
		list = was
	}
	return list, rt
}

func (a attachment) runtime(id, netns string, ports []Port) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: a.name, Args: [][2]string{{"IgnoreUnknown", "1"}}}
	if len(ports) > 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": ports}
	}
	return rt
}

func convert(r *current.Result) *Result {
	out := &Result{Nameservers: r.DNS.Nameservers, Search: r.DNS.Search, Options: r.DNS.Options}
	for _, ip := range r.IPs {
		out.IPs = append(out.IPs, ip.Address)
		if ip.Gateway != nil {
			out.Gateways = append(out.Gateways, ip.Gateway)
		}
	}
	return out
}

// ResolvConf is the resolver's configuration that the network asks for, or
// empty if it leaves that to the host.
func (r *Result) ResolvConf() string {
	var b strings.Builder
	for _, s := range r.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Search, " "))
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.String()
}

// ParsePort reads "[IP:]HOST:CONTAINER[/PROTOCOL]".
func ParsePort(s string) (Port, error) {
	bad := fmt.Errorf("port %q is not [IP:]HOST:CONTAINER[/tcp|udp|sctp]: %w", s, errdefs.ErrInvalidArgument)
	rest, protocol, ok := strings.Cut(s, "/")
	if !ok {
		protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return Port{}, bad
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return Port{}, bad
	}
	outside, inside := rest[:i], rest[i+1:]
	p := Port{Protocol: protocol}
	if j := strings.LastIndexByte(outside, ':'); j >= 0 {
		ip := net.ParseIP(strings.Trim(outside[:j], "[]"))
		if ip == nil {
			return Port{}, bad
		}
		p.HostIP, outside = ip.String(), outside[j+1:]
	}
	var err error
	if p.HostPort, err = number(outside); err != nil {
		return Port{}, bad
	}
	if p.ContainerPort, err = number(inside); err != nil {
		return Port{}, bad
	}
	return p, nil
}

func number(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}

// NamespaceOf is the file of the network namespace of a process.
func NamespaceOf(pid uint32) string { return filepath.Join("/proc", fmt.Sprint(pid), "ns", "net") }
