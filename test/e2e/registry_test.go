// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"slipway/test/host"
	"slipway/test/hub"
)

// smallImage puts an image of one small layer into a hub.
func smallImage(h *hub.Hub) (ref string) {
	h.Image("r", "v1", runtime.GOARCH, hub.Tar("etc/", "etc/name=value"))
	return h.Ref("r", "v1")
}

func TestRegistryThatFails(t *testing.T) {
	d := host.Start(t, host.Options{})
	h := hub.New(t, hub.Options{})
	ref := smallImage(h)
	huge := func() io.Reader { return io.LimitReader(spaces{}, 100<<20) }
	for _, c := range []struct {
		claim string
		text  string
		fault hub.Fault
	}{
		{"says 401", "401 Unauthorized", hub.Fault{Path: "/manifests/", Status: http.StatusUnauthorized}},
		{"says 403", "403 Forbidden", hub.Fault{Path: "/manifests/", Status: http.StatusForbidden}},
		{"says 404", ref + ": not found", hub.Fault{Path: "/manifests/", Status: http.StatusNotFound}},
		{"says 429", "429 Too Many Requests", hub.Fault{Path: "/manifests/", Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"0"}}}},
		{"says 500", "500 Internal Server Error", hub.Fault{Path: "/manifests/", Status: http.StatusInternalServerError}},
		{"says 403 to a blob", "403 Forbidden", hub.Fault{Path: "/blobs/", Status: http.StatusForbidden}},
		{"says 404 to a blob", "404 Not Found", hub.Fault{Path: "/blobs/", Status: http.StatusNotFound}},
		{"says 500 to a blob", "500 Internal Server Error", hub.Fault{Path: "/blobs/", Status: http.StatusInternalServerError}},
		{"cuts a blob short", "unexpected EOF", hub.Fault{Path: "/blobs/", Body: func() io.Reader { return strings.NewReader("short") }}},
		{"sends another blob", "unexpected commit digest", hub.Fault{Path: "/blobs/", Flip: true}},
		{"sends a manifest of 100 MB", "manifest", hub.Fault{
			Path: "/manifests/", Body: huge, Header: http.Header{"Content-Type": {"application/vnd.oci.image.manifest.v1+json"}},
		}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h.Fail(c.fault)
			defer h.Heal()
			fails(t, d, 1, c.text, pullArgs(ref)...)
			if out := d.Ctr(t, "i", "ls", "-q"); out != "" {
				t.Errorf("images: %q", out)
			}
			empty(t, d)
		})
	}
	d.Ctr(t, pullArgs(ref)...)
	if kb := memory(t, d); kb > 100<<10 {
		t.Errorf("the daemon has grown to %d KiB", kb)
	}
}

// spaces is an endless document.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte(" "), len(p)))
	return len(p), nil
}

// memory is the most memory that the daemon has had, in KiB.
func memory(t *testing.T, d *host.Daemon) (kb int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

func TestPasswordsAreForTheRegistryAlone(t *testing.T) {
	for name, token := range map[string]bool{"basic": false, "token": true} {
		t.Run(name, func(t *testing.T) {
			d := host.Start(t, host.Options{})
			h := hub.New(t, hub.Options{User: "me", Password: "secret", Token: token, CDN: true})
			ref := smallImage(h)
			fails(t, d, 1, "unauthorized", pullArgs(ref)...)
			fails(t, d, 1, "unauthorized", pullArgs("--user", "me:wrong", ref)...)
			h.Forget()
			d.Ctr(t, pullArgs("--user", "me:secret", ref)...)
			redirected := 0
			for _, r := range h.Requests() {
				if r.CDN {
					redirected++
				}
				if r.CDN && r.Authorization != "" {
					t.Errorf("%s %s: the other host got %q", r.Method, r.Path, r.Authorization)
				}
			}
			if redirected == 0 {
				t.Error("nothing came from the other host")
			}
			d.Ctr(t, "i", "push", "--plain-http", "--user", "me:secret", h.Ref("copy", "v1"), ref)
			log, err := os.ReadFile(d.Log())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(log), "secret") {
				t.Error("the log has the password")
			}
			empty(t, d)
		})
	}
}

// A pair is a certificate with its key, and the files of both in PEM.
type pair struct {
	tls       tls.Certificate
	cert, key string
}

// certify makes a certificate for 127.0.0.1, its own authority if ca is nil.
func certify(t *testing.T, dir, name string, ca *pair) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := c, any(key)
	if ca != nil {
		parent, signer = ca.tls.Leaf, ca.tls.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := pair{cert: filepath.Join(dir, name+".cert"), key: filepath.Join(dir, name+".key")}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	for file, data := range map[string][]byte{p.cert: certPEM, p.key: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if p.tls, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRegistryWithItsOwnAuthority(t *testing.T) {
	d := host.Start(t, host.Options{})
	dir := host.TempDir(t)
	ca := certify(t, dir, "ca", nil)
	server, user := certify(t, dir, "server", &ca), certify(t, dir, "user", &ca)
	known := x509.NewCertPool()
	known.AddCert(ca.tls.Leaf)
	h := hub.New(t, hub.Options{TLS: &tls.Config{
		Certificates: []tls.Certificate{server.tls}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known,
	}})
	ref := smallImage(h)
	hosts := filepath.Join(dir, "hosts")
	hostsFile(t, hosts, h.Host, fmt.Sprintf("ca = %q\nclient = [[%q, %q]]\n", ca.cert, user.cert, user.key))
	unknown, bare := filepath.Join(dir, "unknown"), filepath.Join(dir, "bare")
	hostsFile(t, unknown, h.Host, fmt.Sprintf("client = [[%q, %q]]\n", user.cert, user.key))
	hostsFile(t, bare, h.Host, fmt.Sprintf("ca = %q\n", ca.cert))

	fails(t, d, 1, "certificate signed by unknown authority", "i", "pull", "--hosts-dir", unknown, ref)
	fails(t, d, 1, "certificate required", "i", "pull", "--hosts-dir", bare, ref)
	d.Ctr(t, "i", "pull", "--hosts-dir", hosts, ref)
	d.Ctr(t, "i", "rm", "--sync", ref)
	fails(t, d, 1, "certificate required", "i", "pull", "--local", "--tlscacert", ca.cert, ref)
	d.Ctr(t, "i", "pull", "--local", "--tlscacert", ca.cert, "--tlscert", user.cert, "--tlskey", user.key, ref)
	empty(t, d)
}

// hostsFile writes the hosts.toml of a registry.
func hostsFile(t *testing.T, dir, registry, text string) {
	t.Helper()
	of := filepath.Join(dir, registry)
	if err := os.MkdirAll(of, 0o755); err != nil {
		t.Fatal(err)
	}
	text = fmt.Sprintf("server = \"https://%s\"\n[host.\"https://%s\"]\n", registry, registry) + text
	if err := os.WriteFile(filepath.Join(of, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A registry that goes down in the middle is named; when it is up again, the
// pull needs only what is missing.
func TestRegistryThatGoesDown(t *testing.T) {
	d := host.Start(t, host.Options{})
	h := hub.Start(hub.Options{})
	ref := smallImage(h)
	h.Fail(hub.Fault{Path: "/blobs/", Do: func(w http.ResponseWriter, r *http.Request) {
		go h.Close()
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}})
	fails(t, d, 1, h.Host, pullArgs(ref)...)
	fails(t, d, 1, "connection refused", pullArgs(ref)...)
	empty(t, d)
}
