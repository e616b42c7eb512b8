// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/test/hub"
)

// noSleep makes retries follow each other at once, and counts.
func noSleep(waits *[]time.Duration) func(context.Context, time.Duration) error {
	return func(ctx context.Context, d time.Duration) error {
		if waits != nil {
			*waits = append(*waits, d)
		}
		return ctx.Err()
	}
}

func password(user, secret string) func(context.Context, string) (Credential, error) {
	return func(context.Context, string) (Credential, error) {
		return Credential{Username: user, Password: secret}, nil
	}
}

func hosts(t *testing.T, registry, toml string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, registry)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// TestSecretsStayWithTheirHost follows a redirect to the storage of a hub and
// an upload that goes on there.
func TestSecretsStayWithTheirHost(t *testing.T) {
	for claim, o := range map[string]hub.Options{
		"basic": {User: "u", Password: "p", CDN: true},
		"token": {User: "u", Password: "p", CDN: true, Token: true},
		"tls":   {User: "u", Password: "p", CDN: true, TLS: &tls.Config{}},
	} {
		t.Run(claim, func(t *testing.T) {
			h := hub.New(t, o)
			desc := h.Blob("x", ocispec.MediaTypeImageLayer, []byte("some bytes"))
			opts := Options{
				Credentials: password("u", "p"), SkipVerify: true, Headers: http.Header{"X-Flag-Secret": {"s"}},
				HostsDir: hosts(t, h.Host, "[header]\nX-Secret = \"s\"\n"),
			}
			data, err := readAll(t, open(t, h.Ref("x", "t"), opts), desc, 0)
			if err != nil || string(data) != "some bytes" {
				t.Fatalf("%q, %v", data, err)
			}
			cdn := 0
			for _, r := range h.Requests() {
				secret := r.Authorization != "" || r.Header.Get("X-Secret") != "" || r.Header.Get("X-Flag-Secret") != ""
				if r.CDN {
					cdn++
				}
				if r.CDN && secret {
					t.Errorf("the storage got %v", r.Header)
				}
			}
			if cdn != 1 {
				t.Errorf("%d requests went to the storage", cdn)
			}
		})
	}
}

func TestUploadElsewhereGetsNoSecrets(t *testing.T) {
	h := hub.New(t, hub.Options{User: "u", Password: "p"})
	elsewhere := hub.New(t, hub.Options{})
	h.Fail(hub.Fault{Method: http.MethodPost, Times: 1, Do: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://"+elsewhere.Host+"/v2/x/blobs/uploads/u")
		w.WriteHeader(http.StatusAccepted)
	}})
	elsewhere.Fail(hub.Fault{Method: http.MethodPut, Status: http.StatusCreated})
	s := store{digest.FromString("the blob"): []byte("the blob")}
	desc := ocispec.Descriptor{Digest: digest.FromString("the blob"), Size: 8}
	opts := Options{Credentials: password("u", "p"), Headers: http.Header{"X-Secret": {"s"}}}
	if err := open(t, h.Ref("x", "t"), opts).Push(t.Context(), desc, s, nil, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	got := elsewhere.Requests()
	if len(got) == 0 || got[0].Authorization != "" || got[0].Header.Get("X-Secret") != "" {
		t.Errorf("%+v", got)
	}
}

func TestLocalRegistrySpeaksEither(t *testing.T) {
	for claim, o := range map[string]hub.Options{"http": {}, "https": {TLS: &tls.Config{}}} {
		h := hub.New(t, o)
		desc := h.Blob("x", ocispec.MediaTypeImageLayer, []byte("some bytes"))
		if data, err := readAll(t, open(t, h.Ref("x", "t"), Options{}), desc, 0); err != nil || len(data) != 10 {
			t.Errorf("%s: %q, %v", claim, data, err)
		}
	}
}

func TestUnknownCertificateIsRefused(t *testing.T) {
	h := hub.New(t, hub.Options{TLS: &tls.Config{}})
	h.Image("x", "t", "amd64")
	for claim, c := range map[string]struct {
		toml string
		ok   bool
	}{
		"system's authorities": {fmt.Sprintf("server = \"https://%s\"\n", h.Host), false},
		"its own":              {fmt.Sprintf("server = \"https://%s\"\nca = \"ca.pem\"\n", h.Host), true},
		"not verified":         {fmt.Sprintf("server = \"https://%s\"\nskip_verify = true\n", h.Host), true},
	} {
		dir := hosts(t, h.Host, c.toml)
		os.WriteFile(filepath.Join(dir, h.Host, "ca.pem"), h.Certificate(), 0o600)
		_, _, err := open(t, h.Ref("x", "t"), Options{HostsDir: dir}).Resolve(t.Context())
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", claim, err)
		}
		if err != nil && !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v does not say why", claim, err)
		}
	}
}

func TestBrokenHostsFileNamesItsLine(t *testing.T) {
	for toml, want := range map[string]string{
		"server = \"https://a\"\nca = \n":                                     "hosts.toml:2:",
		"\n\n[host.\"https://m\"]\ncapabilities = [\"fly\"]\n":                "hosts.toml:3: host https://m: unknown capability \"fly\"",
		"[host.\"https://m\"]\ndial_timeout = \"soon\"\n":                     "hosts.toml:1: host https://m: dial_timeout",
		"[host.\"ftp://m\"]\n[host.\"https://b\"]\nskip_verify = \"maybe\"\n": "hosts.toml:3:",
		"server = \"https://a\"\n[header]\nX = 1\n":                           "hosts.toml:1: server https://a: header X",
		"ca = [1]\n":                       "hosts.toml:1:",
		"client = [[\"a\",\"b\",\"c\"]]\n": "client",
	} {
		_, err := New("reg.example/x:t", Options{HostsDir: hosts(t, "reg.example", toml)})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", toml, err, want)
		}
	}
}

func TestHostsFileIsReadAgain(t *testing.T) {
	h := hub.New(t, hub.Options{})
	h.Image("x", "t", "amd64")
	dir := hosts(t, "reg.example", "server = \"http://127.0.0.1:1\"\n")
	if _, _, err := open(t, "reg.example/x:t", Options{HostsDir: dir}).Resolve(t.Context()); err == nil {
		t.Fatal("there is nobody")
	}
	file := filepath.Join(dir, "reg.example", "hosts.toml")
	if err := os.WriteFile(file, []byte("server = \"http://"+h.Host+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(t, "reg.example/x:t", Options{HostsDir: dir}).Resolve(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStalledConnectionsAreGivenUp(t *testing.T) {
	data := strings.Repeat("0123456789", 10000)
	for claim, f := range map[string]hub.Fault{
		"stalls":   {Path: "/blobs/", Stall: 1000, Times: 1},
		"trickles": {Path: "/blobs/", Times: 1, Do: trickle(data)},
		"is cut":   {Path: "/blobs/", Cut: 1000, Times: 3},
	} {
		t.Run(claim, func(t *testing.T) {
			h := hub.New(t, hub.Options{})
			desc := h.Blob("x", ocispec.MediaTypeImageLayer, []byte(data))
			h.Fail(f)
			p := pace{stall: 2 * time.Second, window: 100 * time.Millisecond, bytes: 1000}
			got, err := readAll(t, open(t, h.Ref("x", "t"), Options{sleep: noSleep(nil), pace: &p}), desc, 0)
			if err != nil || string(got) != data {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n := len(h.Requests()); n < 2 {
				t.Errorf("%d requests", n)
			}
		})
	}
	h := hub.New(t, hub.Options{})
	desc := h.Blob("x", ocispec.MediaTypeImageLayer, []byte(data))
	h.Fail(hub.Fault{Path: "/blobs/", Do: trickle(data)})
	p := pace{stall: time.Minute, window: 50 * time.Millisecond, bytes: 1000}
	if _, err := readAll(t, open(t, h.Ref("x", "t"), Options{sleep: noSleep(nil), pace: &p}), desc, 0); !errdefs.IsUnavailable(err) {
		t.Errorf("a registry that only trickles: %v", err)
	}
}

// trickle sends a byte now and then.
func trickle(data string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		for i := range data {
			io.WriteString(w, data[i:i+1])
			http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func TestServerSaysWhenToComeBack(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"3":    3 * time.Second,
		"9999": longestWait,
		time.Now().Add(time.Hour).UTC().Format(http.TimeFormat): longestWait,
		"soon": 50 * time.Millisecond,
	} {
		h := hub.New(t, hub.Options{})
		h.Image("x", "t", "amd64")
		h.Fail(hub.Fault{Status: http.StatusTooManyRequests, Times: 1, Header: http.Header{"Retry-After": {header}}})
		var waits []time.Duration
		if _, _, err := open(t, h.Ref("x", "t"), Options{sleep: noSleep(&waits)}).Resolve(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(waits) != 1 || waits[0] < want || want == longestWait && waits[0] != want {
			t.Errorf("Retry-After %s: waited %v", header, waits)
		}
	}
}

func TestFaultsOfRegistries(t *testing.T) {
	huge := func() io.Reader { return io.LimitReader(zeros{}, 100<<20) }
	for claim, c := range map[string]struct {
		fault hub.Fault
		is    func(error) bool
		says  string
	}{
		"401":                {hub.Fault{Status: 401}, errdefs.IsUnauthorized, "401"},
		"403":                {hub.Fault{Status: 403}, errdefs.IsPermissionDenied, "the hub says so"},
		"404":                {hub.Fault{Status: 404}, errdefs.IsNotFound, "/x:t"},
		"429":                {hub.Fault{Status: 429}, errdefs.IsResourceExhausted, "429"},
		"500":                {hub.Fault{Status: 500}, errdefs.IsUnavailable, "500"},
		"manifest of 100 MB": {hub.Fault{Body: huge}, errdefs.IsInvalidArgument, fmt.Sprintf("limit of %d", MaxManifest)},
		"cut at once":        {hub.Fault{Do: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}, errdefs.IsUnavailable, "EOF"},
	} {
		h := hub.New(t, hub.Options{})
		h.Image("x", "t", "amd64")
		h.Fail(c.fault)
		_, _, err := open(t, h.Ref("x", "t"), Options{sleep: noSleep(nil)}).Resolve(t.Context())
		if !c.is(err) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), h.Host) {
			t.Errorf("%s: %v", claim, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUnknownHostIsNamed(t *testing.T) {
	_, _, err := open(t, "no-such-host.invalid/x:t", Options{sleep: noSleep(nil)}).Resolve(t.Context())
	var want interface{ Timeout() bool }
	if err == nil || !strings.Contains(err.Error(), "no-such-host.invalid") || !errors.As(err, &want) && !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

func TestUploadGoesOnWhereItWas(t *testing.T) {
	blob := strings.Repeat("0123456789", 100_000)
	d := digest.FromString(blob)
	desc := ocispec.Descriptor{Digest: d, Size: int64(len(blob))}
	for claim, faults := range map[string][]hub.Fault{
		"cut once":                 {{Method: http.MethodPut, CutRequest: 300_000, Times: 1}},
		"cut twice":                {{Method: http.MethodPut, CutRequest: 300_000, Times: 1}, {Method: http.MethodPatch, CutRequest: 300_000, Times: 1}},
		"cut after the last byte":  {{Method: http.MethodPut, CutRequest: int64(len(blob)), Times: 1}},
		"registry forgets":         {{Method: http.MethodPut, CutRequest: 300_000, Times: 1}, {Method: http.MethodGet, Status: 404, Times: 1}},
		"server error at the end":  {{Method: http.MethodPut, Status: 503, Times: 1}},
		"busy at the beginning":    {{Method: http.MethodPost, Status: 429, Times: 2}},
		"busy with the last bytes": {{Method: http.MethodPut, CutRequest: 300_000, Times: 1}, {Method: http.MethodPatch, Status: 429, Times: 2}},
	} {
		t.Run(claim, func(t *testing.T) {
			for kind, from := range map[string]content.Provider{"memory": store{d: []byte(blob)}, "file": fileStore(t, blob)} {
				h := hub.New(t, hub.Options{})
				for _, f := range faults {
					h.Fail(f)
				}
				last := int64(0)
				err := open(t, h.Ref("x", "t"), Options{sleep: noSleep(nil)}).Push(t.Context(), desc, from, nil, func(n int64) { last = n })
				if err != nil || !h.Has("x", d) || last != desc.Size {
					t.Errorf("%s: %v, there: %v, %d bytes reported", kind, err, h.Has("x", d), last)
				}
			}
		})
	}
}

// fileStore is a store on disk that holds one blob.
func fileStore(t *testing.T, blob string) *content.Local {
	t.Helper()
	s, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Writer(t.Context(), content.WriterOpts{Ref: "r"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(blob)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), 0, "", nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// What package net/http sends by sendfile is a body that is a file, from where
// it stands.
func TestBlobOfAFileIsSentAsTheFile(t *testing.T) {
	blob := "0123456789"
	u := &upload{desc: ocispec.Descriptor{Digest: digest.FromString(blob)}, offset: 3, size: 10, provider: fileStore(t, blob)}
	body, err := u.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := body.(syscall.Conn); !ok {
		t.Errorf("the body is a %T", body)
	}
	got, err := io.ReadAll(body)
	if err != nil || string(got) != blob[3:] || (*u.position.Load())() != 10 {
		t.Errorf("read %q up to %d, %v", got, (*u.position.Load())(), err)
	}
	if err := body.Close(); err != nil || (*u.position.Load())() > 10 {
		t.Errorf("closed: %v, at %d", err, (*u.position.Load())())
	}
}

// A client on a slow machine need not hear of every piece that is read.
func TestUploadReportsNotEveryPiece(t *testing.T) {
	blob := strings.Repeat("0123456789", 1_000_000)
	h := hub.New(t, hub.Options{})
	desc := ocispec.Descriptor{Digest: digest.FromString(blob), Size: int64(len(blob))}
	start, calls := time.Now(), 0
	if err := open(t, h.Ref("x", "t"), Options{}).Push(t.Context(), desc, store{desc.Digest: []byte(blob)}, nil, func(int64) { calls++ }); err != nil {
		t.Fatal(err)
	}
	if most := int(time.Since(start)/watchEvery) + 2; calls > most {
		t.Errorf("%d reports, more than %d", calls, most)
	}
}

func TestPartsAreTheWhole(t *testing.T) {
	blob := make([]byte, 1_000_003)
	for i := range blob {
		blob[i] = byte(i * i >> 7)
	}
	for claim, c := range map[string]struct {
		opts   hub.Options
		slots  int // further connections that there are
		fast   float64
		faults []hub.Fault
		parts  bool
	}{
		"slow":            {hub.Options{}, 3, 1e30, nil, true},
		"one more":        {hub.Options{}, 1, 1e30, nil, true},
		"none more":       {hub.Options{}, 0, 1e30, nil, false},
		"fast":            {hub.Options{}, 3, 0, nil, false},
		"without ranges":  {hub.Options{NoRanges: true}, 3, 1e30, nil, false},
		"redirected":      {hub.Options{CDN: true}, 3, 1e30, nil, true},
		"cut and refused": {hub.Options{}, 3, 1e30, []hub.Fault{{Skip: 3, Times: 2, Cut: 20_000}, {Skip: 2, Times: 2, Status: 429}, {Skip: 4, Times: 1, Status: 503}}, true},
	} {
		t.Run(claim, func(t *testing.T) {
			h := hub.New(t, c.opts)
			desc := h.Blob("x", ocispec.MediaTypeImageLayer, blob)
			for _, f := range c.faults {
				h.Fail(f)
			}
			r := open(t, h.Ref("x", "t"), Options{sleep: noSleep(nil), plan: &plan{probe: 100_000, part: 64_000, worth: 1, fast: c.fast}})
			var mu sync.Mutex
			left := c.slots
			more := func() (func(), bool) {
				mu.Lock()
				defer mu.Unlock()
				if left == 0 {
					return nil, false
				}
				left--
				return func() { mu.Lock(); left++; mu.Unlock() }, true
			}
			rc, err := r.FetchParts(t.Context(), desc, 7, more)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(got, blob[7:]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			rc.Close()
			if left != c.slots {
				t.Errorf("%d connections were not given back", c.slots-left)
			}
			if n := len(h.Requests()); c.parts != (n > 4) {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestPartsThatFailEnd(t *testing.T) {
	h := hub.New(t, hub.Options{})
	desc := h.Blob("x", ocispec.MediaTypeImageLayer, make([]byte, 1_000_000))
	h.Fail(hub.Fault{Skip: 5, Status: 404})
	r := open(t, h.Ref("x", "t"), Options{sleep: noSleep(nil), plan: &plan{probe: 100_000, part: 64_000, worth: 1, fast: 1e30}})
	rc, err := r.FetchParts(t.Context(), desc, 0, func() (func(), bool) { return func() {}, true })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(rc); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if _, err := rc.Read(make([]byte, 1)); !errdefs.IsNotFound(err) {
		t.Errorf("a read after that: %v", err)
	}
	rc.Close()
}

func TestReferrers(t *testing.T) {
	subject := func(h *hub.Hub) ocispec.Descriptor { return h.Image("x", "t", "amd64") }
	sign := func(h *hub.Hub, to ocispec.Descriptor, kind string) ocispec.Descriptor {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Config: h.Blob("x", ocispec.MediaTypeEmptyJSON, []byte("{}")), Subject: &to, Layers: []ocispec.Descriptor{}}
		d := h.Manifest("x", "", ocispec.MediaTypeImageManifest, m)
		d.ArtifactType = kind
		return d
	}
	for claim, o := range map[string]hub.Options{"API": {}, "tag": {NoReferrers: true}} {
		t.Run(claim, func(t *testing.T) {
			h := hub.New(t, o)
			to := subject(h)
			r := open(t, h.Ref("x", "t"), Options{})
			if list, err := r.Referrers(t.Context(), to.Digest, ""); err != nil || len(list) != 0 {
				t.Errorf("nobody refers to it: %v, %v", list, err)
			}
			a, b := sign(h, to, "application/sbom"), sign(h, to, "application/signature")
			if o.NoReferrers {
				h.Index("x", strings.Replace(to.Digest.String(), ":", "-", 1), a, b)
			}
			if list, err := r.Referrers(t.Context(), to.Digest, ""); err != nil || len(list) != 2 {
				t.Errorf("all: %v, %v", list, err)
			}
			if list, err := r.Referrers(t.Context(), to.Digest, "application/sbom"); err != nil || len(list) != 1 || list[0].Digest != a.Digest {
				t.Errorf("one kind: %v, %v", list, err)
			}
		})
	}
}

func TestReferrersThatNeverEnd(t *testing.T) {
	h := hub.New(t, hub.Options{})
	d := h.Image("x", "t", "amd64")
	for claim, link := range map[string]string{"limit of 100 pages": `</v2/x/referrers/` + d.Digest.String() + `?n=1>; rel="next"`, "another host": `<https://elsewhere.example/>; rel="next"`} {
		h.Fail(hub.Fault{Path: "/referrers/", Times: 101, Header: http.Header{"Link": {link}}, Body: func() io.Reader { return strings.NewReader(`{"manifests":[]}`) }})
		if _, err := open(t, h.Ref("x", "t"), Options{}).Referrers(t.Context(), d.Digest, ""); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), claim) {
			t.Errorf("%s: %v", claim, err)
		}
		h.Heal()
	}
}

func TestPing(t *testing.T) {
	h := hub.New(t, hub.Options{User: "u", Password: "p"})
	if err := Ping(t.Context(), h.Host, Options{Credentials: password("u", "p")}); err != nil {
		t.Error(err)
	}
	if err := Ping(t.Context(), h.Host, Options{}); !errdefs.IsUnauthorized(err) {
		t.Errorf("without credentials: %v", err)
	}
}

func FuzzChallenge(f *testing.F) {
	for _, c := range []string{`Basic realm="x"`, `Bearer realm="http://127.0.0.1:1/t",service="s",scope="repository:x:pull"`, `Bearer realm=`, `Digest a="b\"`, `Bearer realm="\",`} {
		f.Add(c)
	}
	h := hub.New(f, hub.Options{})
	f.Fuzz(func(t *testing.T, challenge string) {
		if strings.Contains(challenge, "//") && !strings.Contains(challenge, "//127.0.0.1:1/") {
			t.Skip("would ask another host")
		}
		h.Heal()
		h.Fail(hub.Fault{Status: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {challenge}}})
		r, err := New(h.Ref("x", "t"), Options{sleep: noSleep(nil), PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Resolve(t.Context()); err == nil {
			t.Error("resolved without a right to")
		}
	})
}

func TestTraceShowsEveryHop(t *testing.T) {
	h := hub.New(t, hub.Options{User: "u", Password: "p", Token: true, CDN: true, TLS: &tls.Config{}})
	desc := h.Blob("x", ocispec.MediaTypeImageLayer, []byte("some bytes"))
	var mu sync.Mutex
	var got []string
	opts := Options{SkipVerify: true, Credentials: password("u", "p"), Trace: func(hop Hop) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%s %d %s", hop.Method, hop.Status, hop.Auth))
		if !strings.HasPrefix(hop.TLS, "TLS 1.3") || !strings.HasSuffix(hop.TLS, "not verified") || strings.Contains(fmt.Sprint(hop), "secret") {
			t.Errorf("%+v", hop)
		}
	}}
	if _, err := readAll(t, open(t, h.Ref("x", "t"), opts), desc, 0); err != nil {
		t.Fatal(err)
	}
	want := []string{"GET 401 ", "GET 200 Basic", "GET 307 Bearer", "GET 200 "}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("got %q", got)
	}
}
