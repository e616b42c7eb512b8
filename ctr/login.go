// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/term"

	"slipway/registry"
	"slipway/registry/docker"
)

// These commands have no counterpart in containerd: they keep what is known of
// registries where Docker and containerd look for it.

func login(f flagSet) action {
	flags := registryOf(f)
	stdin := f.Bool("password-stdin", false, "Read the password from standard input")
	return func(s *session, args []string) error {
		host, plain, err := hostArg(args)
		if err != nil {
			return err
		}
		flags.plainHTTP = flags.plainHTTP || plain
		if flags.user == "" && flags.refresh == "" {
			return errors.New("please provide --user or --refresh")
		}
		if *stdin {
			user, _, _ := strings.Cut(flags.user, ":")
			password, err := readLine(s.in)
			if err != nil {
				return err
			}
			flags.user = user + ":" + password
		}
		user, secret, err := flags.credentials(s, "")
		if err != nil {
			return err
		}
		config, err := docker.Open("")
		if err != nil {
			return err
		}
		if err := config.Login(s.ctx, host, credential(user, secret), flags.options()); err != nil {
			return err
		}
		fmt.Fprintln(s.out, "Login Succeeded")
		return nil
	}
}

// hostArg takes the host of a registry, or a URL of it as docker login does.
func hostArg(args []string) (host string, plain bool, err error) {
	if err := noMore(args, 1); err != nil {
		return "", false, err
	}
	host, plain = strings.CutPrefix(arg(args, 0), "http://")
	rest, secure := strings.CutPrefix(host, "https://")
	host = rest
	if plain || secure {
		host, _, _ = strings.Cut(host, "/")
	}
	if len(args) == 0 {
		host = "docker.io"
	}
	return host, plain, registry.CheckHost(host)
}

// noMore refuses arguments beyond the first n.
func noMore(args []string, n int) error {
	if len(args) > n {
		return fmt.Errorf("argument %q is one too many: %w", args[n], errdefs.ErrInvalidArgument)
	}
	return nil
}

func logout(flagSet) action {
	return func(s *session, args []string) error {
		host, _, err := hostArg(args)
		if err != nil {
			return err
		}
		config, err := docker.Open("")
		if err != nil {
			return err
		}
		if err := config.Logout(s.ctx, host); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "Removed the credentials of %s\n", host)
		return nil
	}
}

// kept finds the credentials that login kept for the host of a reference.
func (s *session) kept(ref string) (registry.Credential, error) {
	host, _, ok := strings.Cut(ref, "/")
	path, err := docker.Path()
	if err != nil || !ok {
		return registry.Credential{}, nil // no home, no file
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return registry.Credential{}, nil
	}
	config, err := docker.Open(path)
	if err != nil {
		return registry.Credential{}, err
	}
	return config.Credential(s.ctx, host)
}

func credential(user, secret string) registry.Credential {
	if user == "" {
		return registry.Credential{RefreshToken: secret}
	}
	return registry.Credential{Username: user, Password: secret}
}

func registryCommands() []command {
	return []command{
		{use: "add HOST", short: "Say how to reach a registry", declare: addRegistry},
		{use: "list", aliases: []string{"ls"}, short: "List the registries that are configured", declare: listRegistries},
		{use: "test REF", short: "Resolve an image, and print every hop", declare: testRegistry},
	}
}

// certs is where the daemon is told of registries unless it is told otherwise.
const certs = "/etc/containerd/certs.d"

func addRegistry(f flagSet) action {
	dir := f.String("hosts-dir", certs, "Directory of hosts.toml files")
	mirrors := listFlag(f, "mirror", "URL to pull from before the registry itself")
	insecure := f.Bool("insecure", false, "Do not verify the registry's certificate")
	ca := f.String("ca", "", "File of certificates to trust")
	force := f.Bool("force", false, "Replace what there is")
	return func(s *session, args []string) error {
		host := arg(args, 0)
		if err := noMore(args, 1); err != nil {
			return err
		}
		if err := registry.CheckHost(host); err != nil {
			return err
		}
		if err := checkMirrors(*mirrors); err != nil {
			return err
		}
		file := filepath.Join(*dir, host, "hosts.toml")
		if _, err := os.Stat(file); err == nil && !*force {
			return fmt.Errorf("%s (--force replaces it): %w", file, errdefs.ErrAlreadyExists)
		}
		if *ca != "" {
			var err error
			if *ca, err = certificates(*ca); err != nil {
				return err
			}
		}
		if err := writeHosts(file, hostsFile(host, *mirrors, *insecure, *ca), func(stage string) error {
			_, err := registry.Endpoints(host, registry.Options{HostsDir: stage})
			return err
		}); err != nil {
			return err
		}
		fmt.Fprintln(s.out, file)
		fmt.Fprintf(s.err, "It is used with --hosts-dir %s, and by the daemon when its transfer service has that as config_path.\n", *dir)
		return nil
	}
}

func checkMirrors(list []string) error {
	for i, m := range list {
		u, err := url.Parse(m)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("mirror %q: not a URL of http or https: %w", m, errdefs.ErrInvalidArgument)
		}
		if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fmt.Errorf("mirror %q: more than a host and a path: %w", m, errdefs.ErrInvalidArgument)
		}
		if slices.Contains(list[:i], m) {
			return fmt.Errorf("mirror %q is given twice: %w", m, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// certificates makes sure that a file has some, and gives its absolute path.
func certificates(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return "", fmt.Errorf("%s: no certificate in it: %w", file, errdefs.ErrInvalidArgument)
	}
	return filepath.Abs(file)
}

func hostsFile(host string, mirrors []string, insecure bool, ca string) []byte {
	var b bytes.Buffer
	settings := func() {
		if insecure {
			b.WriteString("skip_verify = true\n")
		}
		if ca != "" {
			fmt.Fprintf(&b, "ca = %q\n", ca)
		}
	}
	fmt.Fprintf(&b, "server = %q\n", "https://"+host)
	settings()
	for _, m := range mirrors {
		fmt.Fprintf(&b, "\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", m)
		settings()
	}
	return b.Bytes()
}

// writeHosts puts a file where the daemon finds it once check has found no
// fault with it, in a directory that is laid out like its own.
func writeHosts(file string, data []byte, check func(dir string) error) error {
	dir := filepath.Dir(file)
	stage, err := os.MkdirTemp("", "hosts")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	draft := filepath.Join(stage, filepath.Base(dir), filepath.Base(file))
	if err := os.Mkdir(filepath.Dir(draft), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(draft, data, 0o644); err != nil {
		return err
	}
	if err := check(stage); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	next := file + ".new"
	if err := os.WriteFile(next, data, 0o644); err != nil {
		return err
	}
	return os.Rename(next, file)
}

func listRegistries(f flagSet) action {
	dir := f.String("hosts-dir", certs, "Directory of hosts.toml files")
	return func(s *session, args []string) error {
		if err := noMore(args, 0); err != nil {
			return err
		}
		entries, err := os.ReadDir(*dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		w := s.table(4, 4, "REGISTRY\tHOST\tCAPABILITIES\tVERIFY")
		var broken []error
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			points, err := registry.Endpoints(e.Name(), registry.Options{HostsDir: *dir})
			if err != nil {
				broken = append(broken, err)
				continue
			}
			for _, p := range points {
				fmt.Fprintf(w, "%s\t%s\t%s\t%t\n", e.Name(), p.URL, strings.Join(p.Capabilities, ","), !p.SkipVerify)
			}
		}
		return errors.Join(append(broken, w.Flush())...)
	}
}

func testRegistry(f flagSet) action {
	flags := registryOf(f)
	return func(s *session, args []string) error {
		ref := arg(args, 0)
		if ref == "" {
			return errors.New("please provide an image reference to test")
		}
		if err := noMore(args, 1); err != nil {
			return err
		}
		opts, err := flags.optionsFor(s, ref)
		if err != nil {
			return err
		}
		host, _, _ := strings.Cut(ref, "/")
		points, err := registry.Endpoints(host, opts)
		if err != nil {
			return err
		}
		for _, p := range points {
			fmt.Fprintf(s.out, "host %s (%s)\n", p.URL, strings.Join(p.Capabilities, ", "))
		}
		var mu sync.Mutex
		opts.Trace = func(h registry.Hop) {
			mu.Lock()
			defer mu.Unlock()
			s.hop(h)
		}
		repo, err := registry.New(ref, opts)
		if err != nil {
			return err
		}
		name, desc, err := repo.Resolve(s.ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "%s is %s, %s, %d bytes\n", name, desc.Digest, desc.MediaType, desc.Size)
		return nil
	}
}

func (s *session) hop(h registry.Hop) {
	fmt.Fprintf(s.out, "%s %s", h.Method, h.URL)
	if h.Err != nil {
		fmt.Fprintf(s.out, ": %v\n", h.Err)
		return
	}
	fmt.Fprintf(s.out, " %d (%s)\n", h.Status, h.Took.Round(time.Millisecond))
	for _, detail := range [][2]string{{"tls", h.TLS}, {"sent", h.Auth}, {"asks for", strings.Join(h.Challenges, ", ")}, {"goes to", h.Location}} {
		if detail[1] != "" {
			fmt.Fprintf(s.out, "  %s: %s\n", detail[0], detail[1])
		}
	}
}

// askPassword reads a password without showing it.
func (s *session) askPassword() (string, error) {
	fmt.Fprint(s.out, "Password: ")
	fd := int(s.in.Fd())
	if !term.IsTerminal(fd) {
		return readLine(s.in)
	}
	password, err := term.ReadPassword(fd)
	fmt.Fprintln(s.out)
	return string(password), err
}
