// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
)

const manifestType = ocispec.MediaTypeImageManifest

// fake serves one manifest under the tag "t" and blobs, with things in front.
type fake struct {
	mu       sync.Mutex
	blobs    map[digest.Digest][]byte
	manifest []byte
	front    func(w http.ResponseWriter, r *http.Request) bool // true if it answered
	seen     []string
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r.Method+" "+r.URL.Path)
	f.mu.Unlock()
	if f.front != nil && f.front(w, r) {
		return
	}
	_, object, _ := strings.Cut(r.URL.Path, "s/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/manifests/t") || object == digest.FromBytes(f.manifest).String():
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(f.manifest).String())
		http.ServeContent(w, r, "", zeroTime, bytes.NewReader(f.manifest))
	case f.blobs[digest.Digest(object)] != nil:
		http.ServeContent(w, r, "", zeroTime, bytes.NewReader(f.blobs[digest.Digest(object)]))
	default:
		http.NotFound(w, r)
	}
}

func newFake() *fake {
	data := bytes.Repeat([]byte("0123456789"), 10000)
	return &fake{manifest: []byte(`{"a":1}`), blobs: map[digest.Digest][]byte{digest.FromBytes(data): data}}
}

func (f *fake) blob() ocispec.Descriptor {
	for d, data := range f.blobs {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
	}
	panic("no blob")
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func open(t *testing.T, ref string, opts Options) *Repository {
	t.Helper()
	r, err := New(ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func readAll(t *testing.T, r *Repository, desc ocispec.Descriptor, offset int64) ([]byte, error) {
	t.Helper()
	rc, err := r.Fetch(t.Context(), desc, offset)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

func TestReferences(t *testing.T) {
	for ref, want := range map[string][3]string{
		"docker.io/library/busybox:latest": {"docker.io", "library/busybox", "latest"},
		"docker.io/busybox:1":              {"docker.io", "busybox", "1"},
		"localhost:5000/a/b:c":             {"localhost:5000", "a/b", "c"},
		"127.0.0.1:5/x:y":                  {"127.0.0.1:5", "x", "y"},
	} {
		r, err := New(ref, Options{})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if got := [3]string{r.Host(), r.Name(), r.object}; got != want {
			t.Errorf("%s: got %v", ref, got)
		}
	}
	for _, ref := range []string{"", "busybox", "busybox:latest", "library/busybox:latest", "docker.io/a", "docker.io/A:b", "docker.io/a:b:c", "docker.io/../x:y", "docker.io/a@sha256:1"} {
		if _, err := New(ref, Options{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if r := open(t, "docker.io/library/a:b", Options{}); r.hosts[0].address != "registry-1.docker.io" || r.hosts[0].scheme != "https" {
		t.Errorf("docker.io is reached at %+v", r.hosts[0].site)
	}
}

func TestResolveAndFetch(t *testing.T) {
	f := newFake()
	r := open(t, serve(t, f)+"/x:t", Options{})
	_, desc, err := r.Resolve(t.Context())
	if err != nil || desc.Digest != digest.FromBytes(f.manifest) || desc.MediaType != manifestType || desc.Size != int64(len(f.manifest)) {
		t.Fatalf("got %+v, %v", desc, err)
	}
	for _, offset := range []int64{0, 1, 99999} {
		data, err := readAll(t, r, f.blob(), offset)
		if err != nil || !bytes.Equal(data, f.blobs[f.blob().Digest][offset:]) {
			t.Errorf("from %d: %d bytes, %v", offset, len(data), err)
		}
	}
}

func TestResolveWithoutHeaders(t *testing.T) {
	f := newFake()
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		return false
	}
	_, desc, err := open(t, serve(t, f)+"/x:t", Options{}).Resolve(t.Context())
	if err != nil || desc.Digest != digest.FromBytes(f.manifest) {
		t.Errorf("got %+v, %v", desc, err)
	}
}

// status answers every request, the first n if n > 0.
func status(code, n int, header ...string) func(http.ResponseWriter, *http.Request) bool {
	var mu sync.Mutex
	return func(w http.ResponseWriter, _ *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if n--; n == -1 {
			n = 0
			return false
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, `{"errors":[{"code":"WHY","message":"because"}]}`)
		return true
	}
}

func TestStatusesAreKinds(t *testing.T) {
	for code, is := range map[int]func(error) bool{
		401: errdefs.IsUnauthorized, 403: errdefs.IsPermissionDenied, 404: errdefs.IsNotFound,
		429: errdefs.IsResourceExhausted, 500: errdefs.IsUnavailable, 418: errdefs.IsUnknown,
	} {
		f := newFake()
		f.front = status(code, 1<<30, "Retry-After", "0")
		_, _, err := open(t, serve(t, f)+"/x:t", Options{sleep: noSleep(nil)}).Resolve(t.Context())
		if !is(err) || !strings.Contains(err.Error(), "/x:t") {
			t.Errorf("%d: %v", code, err)
		}
	}
	f := newFake()
	f.front = status(403, 1<<30)
	if _, _, err := open(t, serve(t, f)+"/x:t", Options{}).Resolve(t.Context()); !strings.Contains(fmt.Sprint(err), "because") {
		t.Errorf("the registry's explanation is lost: %v", err)
	}
}

func TestBusyServerIsAskedAgain(t *testing.T) {
	for _, code := range []int{429, 500, 503} {
		f := newFake()
		f.front = status(code, 2, "Retry-After", "0")
		if _, _, err := open(t, serve(t, f)+"/x:t", Options{sleep: noSleep(nil)}).Resolve(t.Context()); err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
}

func TestDownServer(t *testing.T) {
	s := httptest.NewServer(newFake())
	addr := strings.TrimPrefix(s.URL, "http://")
	s.Close()
	_, _, err := open(t, addr+"/x:t", Options{}).Resolve(t.Context())
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v", err)
	}
}

func TestHugeManifestIsRefused(t *testing.T) {
	f := newFake()
	f.manifest = make([]byte, MaxManifest+1)
	_, _, err := open(t, serve(t, f)+"/x:t", Options{}).Resolve(t.Context())
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("got %v", err)
	}
}

// cut sends a part of each body and closes the connection.
func cut(n int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		data := bytes.Repeat([]byte("0123456789"), 10000)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(data[from:min(from+n, len(data))])
		return true
	}
}

func TestBrokenConnectionIsResumed(t *testing.T) {
	f := newFake()
	f.front = cut(30000)
	data, err := readAll(t, open(t, serve(t, f)+"/x:t", Options{}), f.blob(), 0)
	if err != nil || digest.FromBytes(data) != f.blob().Digest {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestTruncatedBlobEnds(t *testing.T) {
	f := newFake()
	f.front = cut(0)
	if _, err := readAll(t, open(t, serve(t, f)+"/x:t", Options{sleep: noSleep(nil)}), f.blob(), 0); err == nil {
		t.Error("a body that never comes was read")
	}
}

func TestServerWithoutRanges(t *testing.T) {
	f := newFake()
	f.front = func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false }
	data, err := readAll(t, open(t, serve(t, f)+"/x:t", Options{}), f.blob(), 70000)
	if err != nil || len(data) != 30000 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestBearerToken(t *testing.T) {
	var scopes []string
	tokens := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scopes = append(scopes, r.URL.Query().Get("scope"))
		if user, pass, _ := r.BasicAuth(); user != "me" || pass != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, `{"token":"tok","expires_in":300}`)
	}))
	f := newFake()
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer tok" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+tokens+`/token",service="s",scope="repository:x:pull"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	addr := serve(t, f)
	creds := func(user string) Options {
		return Options{Credentials: func(_ context.Context, host string) (Credential, error) {
			if host != addr {
				t.Errorf("asked for credentials of %s", host)
			}
			return Credential{Username: user, Password: "secret"}, nil
		}}
	}
	r := open(t, addr+"/x:t", creds("me"))
	if _, _, err := r.Resolve(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t, r, f.blob(), 0); err != nil {
		t.Fatal(err)
	}
	if len(scopes) != 1 || scopes[0] != "repository:x:pull" {
		t.Errorf("scopes asked for: %q", scopes)
	}
	if _, _, err := open(t, addr+"/x:t", creds("you")).Resolve(t.Context()); !errdefs.IsUnauthorized(err) {
		t.Errorf("wrong password: %v", err)
	}
}

func TestBasicAndHeader(t *testing.T) {
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	for name, c := range map[string]Credential{"basic": {Username: "me", Password: "secret"}, "header": {Header: basic}} {
		f := newFake()
		f.front = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") == basic {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		opts := Options{Credentials: func(context.Context, string) (Credential, error) { return c, nil }}
		if _, _, err := open(t, serve(t, f)+"/x:t", opts).Resolve(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedirectLeaksNoCredentials(t *testing.T) {
	f := newFake()
	data := f.blobs[f.blob().Digest]
	leaked := make(chan string, 10)
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked <- r.Header.Get("Authorization")
		http.ServeContent(w, r, "", zeroTime, bytes.NewReader(data))
	}))
	f.front = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, "http://"+elsewhere+"/there", http.StatusTemporaryRedirect)
		default:
			return false
		}
		return true
	}
	opts := Options{Credentials: func(context.Context, string) (Credential, error) {
		return Credential{Username: "me", Password: "secret"}, nil
	}}
	got, err := readAll(t, open(t, serve(t, f)+"/x:t", opts), f.blob(), 5)
	if err != nil || !bytes.Equal(got, data[5:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if h := <-leaked; h != "" {
		t.Errorf("the other host was told %q", h)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(newFake())
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.crt")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]Options{"ca": {CA: ca}, "skip": {SkipVerify: true}} {
		if _, _, err := open(t, addr+"/x:t", opts).Resolve(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	h, p, _ := strings.Cut(addr, ":")
	conf := filepath.Join(dir, h+"_"+p+"_")
	os.Mkdir(conf, 0o700)
	os.WriteFile(filepath.Join(conf, "hosts.toml"), []byte("server = \"https://"+addr+"\"\nca = \""+ca+"\"\n"), 0o600)
	if _, _, err := open(t, addr+"/x:t", Options{HostsDir: dir}).Resolve(t.Context()); err != nil {
		t.Errorf("hosts.toml: %v", err)
	}
	os.Remove(filepath.Join(conf, "hosts.toml"))
	os.WriteFile(filepath.Join(conf, "x.crt"), cert, 0o600)
	if _, _, err := open(t, addr+"/x:t", Options{HostsDir: dir}).Resolve(t.Context()); err != nil {
		t.Errorf("certs.d: %v", err)
	}
	if _, err := New(addr+"/x:t", Options{CA: filepath.Join(dir, "none")}); err == nil {
		t.Error("a missing CA file is accepted")
	}
}

func TestTLSOptionsWithPlainServer(t *testing.T) {
	if _, _, err := open(t, serve(t, newFake())+"/x:t", Options{SkipVerify: true}).Resolve(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMirrorsInOrder(t *testing.T) {
	empty, full := newFake(), newFake()
	empty.front = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("ns") != "registry.example" || r.Header.Get("X-Test") != "1" {
			t.Errorf("mirror asked with %s %v", r.URL, r.Header)
		}
		http.NotFound(w, r)
		return true
	}
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "registry.example"), 0o700)
	os.WriteFile(filepath.Join(dir, "registry.example", "hosts.toml"), []byte(fmt.Sprintf(`
[host."http://%s"]
  capabilities = ["pull", "resolve"]
  [host."http://%[1]s".header]
    x-test = "1"
[host."http://%s/api"]
  override_path = true
`, serve(t, empty), serve(t, http.StripPrefix("/api", prefixed{full})))), 0o600)
	r := open(t, "registry.example/x:t", Options{HostsDir: dir})
	if len(r.hosts) != 3 || r.hosts[2].scheme != "https" {
		t.Fatalf("hosts %v", r.hosts)
	}
	if _, desc, err := r.Resolve(t.Context()); err != nil || desc.Digest != digest.FromBytes(full.manifest) {
		t.Errorf("got %+v, %v", desc, err)
	}
	if len(empty.seen) == 0 {
		t.Error("the first mirror was not asked")
	}
	if h, err := r.pushHost(); err != nil || h != r.hosts[1] {
		t.Errorf("push goes to %v, %v", h, err)
	}
}

// prefixed makes sure that override_path left /v2 away.
type prefixed struct{ next http.Handler }

func (p prefixed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v2") {
		http.NotFound(w, r)
		return
	}
	p.next.ServeHTTP(w, r)
}

// store is a Provider in memory.
type store map[digest.Digest][]byte

type section struct{ *bytes.Reader }

func (section) Close() error { return nil }

func (s store) ReaderAt(_ context.Context, d digest.Digest) (content.ReaderAt, error) {
	return section{bytes.NewReader(s[d])}, nil
}

func TestPushAndMount(t *testing.T) {
	handler := ggcr.New(ggcr.Logger(nopLog()))
	var mounts []url.Values
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Query().Get("mount") != "" {
			mounts = append(mounts, r.URL.Query())
			w.WriteHeader(http.StatusCreated)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	data := []byte("layer")
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: 5}
	m := []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"c","digest":%q,"size":5},"layers":[]}`, manifestType, layer.Digest))
	manifest := ocispec.Descriptor{MediaType: manifestType, Digest: digest.FromBytes(m), Size: int64(len(m))}
	s := store{layer.Digest: data, manifest.Digest: m}
	r := open(t, addr+"/x:t", Options{})
	var sent int64
	if err := r.Push(t.Context(), layer, s, nil, func(n int64) { sent = n }); err != nil || sent != 5 {
		t.Fatalf("sent %d, %v", sent, err)
	}
	if err := r.Push(t.Context(), layer, s, nil, func(int64) {}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second push: %v", err)
	}
	if err := r.PushManifest(t.Context(), manifest, s, true); err != nil {
		t.Fatal(err)
	}
	if _, desc, err := r.Resolve(t.Context()); err != nil || desc.Digest != manifest.Digest {
		t.Errorf("resolved %v, %v", desc, err)
	}
	if err := open(t, addr+"/y:t", Options{}).Push(t.Context(), layer, s, []string{"x"}, func(int64) {}); err != nil && !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if err := open(t, addr+"/z:t", Options{}).Push(t.Context(), ocispec.Descriptor{Digest: digest.FromString("other"), Size: 1}, s, []string{"x"}, func(int64) {}); err != nil {
		t.Error(err)
	}
	if len(mounts) == 0 || mounts[0].Get("from") != "x" {
		t.Errorf("mounts %v", mounts)
	}
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"http://b\"]\nclient = [[\"c\",\"k\"]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "hosts.toml")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		sites, err := readHosts(file, site{address: "a", path: "/v2", can: canAll}, false)
		for _, s := range sites {
			if err == nil && s.scheme != "http" && s.scheme != "https" {
				t.Errorf("scheme %q", s.scheme)
			}
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, ref := range []string{"docker.io/library/busybox:latest", "localhost:5000/a/b:1", "[::1]:5000/a:1", "h.io/a@sha256:" + strings.Repeat("0", 64), "docker.io/busybox:1", "a/b:1", "h.io/../x:1", "h.io/a:1@sha256:" + strings.Repeat("0", 64)} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		r, err := New(ref, Options{})
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", ref, err)
			}
			return
		}
		// What is asked for is what was named, and a path on the host.
		tail, ok := strings.CutPrefix(ref, r.Host()+"/"+r.Name())
		if !ok || r.Host() == "" || r.Name() == "" || r.object == "" || !strings.HasSuffix(tail, r.object) || strings.ContainsAny(tail, "/?#%") {
			t.Errorf("%q: host %q, name %q, object %q", ref, r.Host(), r.Name(), r.object)
		}
		for part := range strings.SplitSeq(r.Name()+"/"+r.object, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "?#%\\ ") {
				t.Errorf("%q: part %q of a path", ref, part)
			}
		}
	})
}

func TestCheckHost(t *testing.T) {
	for _, good := range []string{"docker.io", "localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "a.b-c.example:65535"} {
		if err := CheckHost(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a", "a b.c", "http://a.b", "a.b/c", "..", "a.b:0", "a.b:99999", "a.b:", "a.b?c", "a.b#"} {
		if err := CheckHost(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
