// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// tlsFiles names what a TLS connection is made with.
type tlsFiles struct {
	skip  bool
	ca    []string
	pairs [][2]string // certificate and key, the key empty if in the same file
}

func (t tlsFiles) set() bool { return t.skip || len(t.ca) > 0 || len(t.pairs) > 0 }

// add reads the ca and client keys of hosts.toml, relative to dir.
func (t *tlsFiles) add(dir string, ca, client any) error {
	in := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(dir, name)
	}
	list, err := stringsOf(ca)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	for _, f := range list {
		t.ca = append(t.ca, in(f))
	}
	outer, nested := client.([]any)
	if !nested && client != nil {
		outer = []any{client}
	}
	for _, e := range outer {
		pair, err := stringsOf(e)
		if err != nil || len(pair) == 0 || len(pair) > 2 {
			return fmt.Errorf("client: %v is not a file or a pair of files: %w", e, errdefs.ErrInvalidArgument)
		}
		p := [2]string{in(pair[0])}
		if len(pair) == 2 && pair[1] != "" {
			p[1] = in(pair[1])
		}
		t.pairs = append(t.pairs, p)
	}
	return nil
}

// dockerLayout takes *.crt as authorities and *.cert with *.key as client
// certificates, as Docker's certs.d does.
func (t *tlsFiles) dockerLayout(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if strings.HasSuffix(name, ".crt") {
			t.ca = append(t.ca, name)
		}
		if stem, ok := strings.CutSuffix(name, ".cert"); ok {
			t.pairs = append(t.pairs, [2]string{name, stem + ".key"})
		}
	}
	return nil
}

func (t tlsFiles) config() (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: t.skip}
	if len(t.ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, f := range t.ca {
			data, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if !pool.AppendCertsFromPEM(data) {
				return nil, fmt.Errorf("ca %s: no certificate in it: %w", f, errdefs.ErrInvalidArgument)
			}
		}
		c.RootCAs = pool
	}
	for _, p := range t.pairs {
		key := p[1]
		if key == "" {
			key = p[0]
		}
		cert, err := tls.LoadX509KeyPair(p[0], key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", p[0], err)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}
