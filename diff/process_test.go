// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/mount"
)

// script is a processor that a shell runs.
func script(name, text, accepts, returns string) Processor {
	return Processor{Name: name, Accepts: []string{accepts}, Returns: returns, Path: "sh", Args: []string{"-c", text}}
}

const (
	plainLayer = "application/vnd.oci.image.layer.v1.tar"
	secret     = plainLayer + "+encrypted"
	doubly     = plainLayer + "+gzip+encrypted"
)

// flip is its own inverse, so that a test can encrypt too.
const flip = "tr a-mn-z n-za-m"

func rot(b []byte) []byte {
	b = bytes.Clone(b)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = 'a' + (c-'a'+13)%26
		}
	}
	return b
}

func TestProcessorsMakePlainLayers(t *testing.T) {
	needsRoot(t)
	plain := archive(t, file("f", "hello"))
	for _, c := range []struct {
		name, mediaType string
		blob            []byte
		processors      []Processor
		err             string
	}{
		{"one", secret, rot(plain), []Processor{script("rot", flip, secret, plainLayer)}, ""},
		{"a chain", doubly, plain, []Processor{script("rot", flip, secret, plainLayer), script("outer", flip, doubly, secret)}, ""},
		{"fails", secret, rot(plain), []Processor{script("rot", "cat >/dev/null; echo no key >&2; exit 3", secret, plainLayer)}, "stream processor rot: exit status 3: no key"},
		{"fails after all", secret, rot(plain), []Processor{script("rot", flip+"; exit 3", secret, plainLayer)}, "exit status 3"},
		{"ends early", secret, rot(plain), []Processor{script("rot", "exit 0", secret, plainLayer)}, ""},
		{"is not installed", secret, rot(plain), []Processor{{Name: "rot", Accepts: []string{secret}, Returns: plainLayer, Path: "/absent"}}, "stream processor rot: "},
		{"none", secret, rot(plain), nil, "not implemented"},
		{"a circle", secret, rot(plain), []Processor{script("rot", flip, secret, secret)}, "not implemented"},
	} {
		t.Run(c.name, func(t *testing.T) {
			blobs := blobs{}
			desc := blobs.put(c.blob)
			desc.MediaType = c.mediaType
			dir := t.TempDir()
			mounts := []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
			got, err := ApplyBlob(t.Context(), blobs, desc, mounts, ApplyOpts{Processors: c.processors})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if c.name == "ends early" { // an empty archive
				return
			}
			if b, readErr := os.ReadFile(filepath.Join(dir, "f")); err != nil || readErr != nil || string(b) != "hello" {
				t.Errorf("holds %q, %v, %v", b, err, readErr)
			}
			if want := blobs.put(plain).Digest; got.Digest != want {
				t.Errorf("diff id %s, want %s", got.Digest, want)
			}
		})
	}
}

// endless is a layer of zeros.
func endless() (io.ReadCloser, error) { return io.NopCloser(zeros{}), nil }

func TestAProcessorGetsItsMediaTypeAndPayload(t *testing.T) {
	p := script("p", `head -c 9 >/dev/null; echo "$STREAM_PROCESSOR_MEDIATYPE $X"; cat <&3`, secret, plainLayer)
	p.Env = []string{"X=y"}
	o := ApplyOpts{Payloads: map[string]*anypb.Any{"p": {TypeUrl: "keys"}}}
	r, err := o.processed(t.Context(), secret, []Processor{p}, endless)()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	if want := secret + " y\n\x0a\x04keys"; err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func TestProcessorsEndWithTheirLayer(t *testing.T) {
	o := ApplyOpts{}
	r, err := o.processed(t.Context(), secret, []Processor{script("p", "while echo x; do :; done", secret, plainLayer)}, endless)()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	r.Close() // hangs if the program goes on
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.processed(ctx, secret, []Processor{script("p", "cat", secret, plainLayer)}, endless)(); err == nil {
		t.Error("a program starts for a request that ended")
	}
	if _, err := o.processorsFor("text/plain"); !errdefs.IsNotImplemented(err) {
		t.Errorf("no layer: %v", err)
	}
}
