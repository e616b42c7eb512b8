// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
	"slipway/registry"
)

// snapshotter declares the flag of commands that use a snapshotter.
func snapshotter(f flagSet) *string {
	return f.String("snapshotter", os.Getenv("CONTAINERD_SNAPSHOTTER"), "Name of the snapshotter, the namespace's default if empty (CONTAINERD_SNAPSHOTTER)")
}

func snapshotterFlag(s *session, f flagSet) {
	f.StringVar(&s.group.snapshotter, "snapshotter", os.Getenv("CONTAINERD_SNAPSHOTTER"), "Name of the snapshotter, the namespace's default if empty (CONTAINERD_SNAPSHOTTER)")
}

func labelFlag(f flagSet) *[]string {
	return listFlag(f, "label", "Label to attach, key=value")
}

func platformFlag(f flagSet) *[]string {
	return listFlag(f, "platform", "Platform, as linux/arm64")
}

// list is the value of a flag that may be given more than once. The library's
// own writes the default of each as a line of CSV when it is declared.
type list []string

func (l *list) Set(s string) error { *l = append(*l, s); return nil }
func (l *list) Type() string       { return "stringArray" }
func (l *list) String() string     { return strings.Join(*l, ",") }

func listVar(f flagSet, p *[]string, name, short, usage string) {
	f.VarP((*list)(p), name, short, usage)
}

func listFlag(f flagSet, name, usage string) *[]string {
	p := new([]string)
	listVar(f, p, name, "", usage)
	return p
}

// labels reads key=value pairs. A key alone has the value "true".
func labels(pairs []string) map[string]string {
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok {
			v = "true"
		}
		m[k] = v
	}
	return m
}

// pairs is the reverse of labels, in the order of the keys.
func pairs(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return out
}

// orDash joins a column of a table.
func orDash(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}

// registryFlags say how to reach a registry.
type registryFlags struct {
	skipVerify, plainHTTP, dump, trace bool
	user, refresh, hostsDir            string
	ca, cert, key                      string
}

func registryOf(f flagSet) *registryFlags {
	r := &registryFlags{}
	f.BoolVarP(&r.skipVerify, "skip-verify", "k", false, "Do not verify the registry's certificate")
	f.BoolVar(&r.plainHTTP, "plain-http", false, "Speak HTTP without TLS")
	f.StringVarP(&r.user, "user", "u", "", "Name and password, user[:password]")
	f.StringVar(&r.refresh, "refresh", "", "Refresh token for the authorization server")
	f.StringVar(&r.hostsDir, "hosts-dir", "", "Directory of hosts.toml files")
	f.StringVar(&r.ca, "tlscacert", "", "File of certificates to trust")
	f.StringVar(&r.cert, "tlscert", "", "File of the client certificate")
	f.StringVar(&r.key, "tlskey", "", "File of the client certificate's key")
	f.BoolVar(&r.dump, "http-dump", false, "Print HTTP requests and responses")
	f.BoolVar(&r.trace, "http-trace", false, "Trace HTTP connections")
	return r
}

// remote is what the daemon needs to know of them for a reference.
func (r *registryFlags) remote(s *session, ref string) (client.RegistryOpts, error) {
	user, secret, err := r.credentials(s, ref)
	o := client.RegistryOpts{
		Username: user, Secret: secret, HostsDir: r.hostsDir,
		DebugHTTP: r.dump, Trace: r.trace, HTTPLog: s.err,
	}
	if r.plainHTTP {
		o.DefaultScheme = "http"
	}
	return o, err
}

// options is what package registry needs to know, without credentials.
func (r *registryFlags) options() registry.Options {
	return registry.Options{HostsDir: r.hostsDir, PlainHTTP: r.plainHTTP, SkipVerify: r.skipVerify, CA: r.ca, Cert: r.cert, Key: r.key}
}

// optionsFor is options with the credentials for a reference.
func (r *registryFlags) optionsFor(s *session, ref string) (registry.Options, error) {
	o := r.options()
	var mu sync.Mutex
	o.Log = registry.Log{Heads: r.dump, Connections: r.trace, Write: func(text string) {
		mu.Lock()
		defer mu.Unlock()
		io.WriteString(s.err, text)
	}}
	user, secret, err := r.credentials(s, ref)
	o.Credentials = func(context.Context, string) (registry.Credential, error) { return credential(user, secret), nil }
	return o, err
}

// credentials come from the flags, the password maybe from the terminal, or
// else are those that login kept for the host of a reference.
func (r *registryFlags) credentials(s *session, ref string) (user, secret string, err error) {
	if r.refresh != "" {
		return "", r.refresh, nil
	}
	user, secret, ok := strings.Cut(r.user, ":")
	switch {
	case ok:
		return user, secret, nil
	case user != "":
		secret, err = s.askPassword()
		return user, secret, err
	}
	kept, err := s.kept(ref)
	if kept.Username == "" {
		return "", kept.RefreshToken, err
	}
	return kept.Username, kept.Password, err
}

// readLine reads a line, without its end.
func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	switch {
	case line != "" && err == io.EOF:
		err = nil
	case err == io.EOF:
		err = errors.New("no password: the input is empty")
	}
	return strings.TrimRight(line, "\r\n"), err
}

// needLocal refuses flags that only work where ctr itself speaks to the
// registry.
func needLocal(f flagSet, names ...string) error {
	for _, n := range names {
		if f.Changed(n) {
			return fmt.Errorf("\"--%s\" requires \"--local\" flag", n)
		}
	}
	return nil
}

// runtimeFlags choose the runtime of a container.
type runtimeFlags struct {
	name, configPath, binary, root string
	systemdCgroup                  bool
}

func runtimeOf(f flagSet) *runtimeFlags {
	r := &runtimeFlags{}
	f.StringVar(&r.name, "runtime", client.DefaultRuntime, "Name of the runtime, or the path of its shim")
	f.StringVar(&r.configPath, "runtime-config-path", "", "Configuration file of the runtime")
	f.StringVar(&r.binary, "runc-binary", "", "OCI runtime to use, in place of runc")
	f.StringVar(&r.root, "runc-root", "", "State directory of the OCI runtime")
	f.BoolVar(&r.systemdCgroup, "runc-systemd-cgroup", false, "Make cgroups by systemd")
	return r
}

// options is the message that the shim of the runtime expects.
func (r *runtimeFlags) options() (*anypb.Any, error) {
	if r.name != client.DefaultRuntime {
		if r.binary != "" || r.root != "" || r.systemdCgroup {
			return nil, fmt.Errorf("specifying runc-binary and runc-systemd-cgroup is only supported for %q runtime", client.DefaultRuntime)
		}
		if r.configPath == "" {
			return nil, nil
		}
		return typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigPath: r.configPath})
	}
	return typeurl.MarshalAnyToProto(&runcoptions.Options{BinaryName: r.binary, Root: r.root, SystemdCgroup: r.systemdCgroup})
}
