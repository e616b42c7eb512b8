// SPDX-License-Identifier: Apache-2.0

package task

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

func message(t testing.TB, version int32, address, protocol string) []byte {
	t.Helper()
	data, err := proto.Marshal(&bootstrap.BootstrapResult{Version: version, Address: address, Protocol: protocol})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseReply(t *testing.T) {
	unix := "unix:///run/containerd/s/abc"
	for _, tt := range []struct {
		out  string
		want Endpoint
	}{
		{string(message(t, 3, unix, "ttrpc")), Endpoint{3, unix, "ttrpc"}},
		{string(message(t, 2, unix, "grpc")), Endpoint{2, unix, "grpc"}},
		{string(message(t, 3, unix+"\n", "ttrpc")[:0]) + `{"version":3,"address":"` + unix + `","protocol":"grpc"}`, Endpoint{3, unix, "grpc"}},
		{"\n" + `{"version":2,"address":"` + unix + `"}` + "\n", Endpoint{2, unix, "ttrpc"}},
		{" " + unix + "\n", Endpoint{2, unix, "ttrpc"}},
		{"/containerd-shim/abstract.sock", Endpoint{2, "/containerd-shim/abstract.sock", "ttrpc"}},
	} {
		if got, err := parseReply([]byte(tt.out)); err != nil || got != tt.want {
			t.Errorf("%q is %+v, %v; want %+v", tt.out, got, err, tt.want)
		}
	}
	if _, err := parseReply(message(t, 4, unix, "ttrpc")); !errdefs.IsNotImplemented(err) {
		t.Errorf("version 4: %v", err)
	}
	for _, out := range []string{"", " \n", "warning: x\n" + unix} {
		if e, err := parseReply([]byte(out)); err == nil {
			t.Errorf("%q is %+v", out, e)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add(message(f, 3, "unix:///x", "ttrpc"))
	f.Add([]byte(`{"version":3,"address":"unix:///x","protocol":"grpc"}`))
	f.Add([]byte("unix:///x\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		e, err := parseReply(out)
		if err == nil && (e.Address == "" && e.Version == 0 || e.Version > maxVersion || e.Protocol == "") {
			t.Errorf("%q is %+v", out, e)
		}
	})
}

func TestEndpointTravelsAsText(t *testing.T) {
	for text, want := range map[string]Endpoint{
		"ttrpc+unix:///run/s": {3, "unix:///run/s", "ttrpc"},
		"grpc+vsock://2:1024": {3, "vsock://2:1024", "grpc"},
	} {
		if got := ParseEndpoint(text, 3); got != want || got.String() != text {
			t.Errorf("%s is %+v, and back %s", text, got, got)
		}
	}
	if got := ParseEndpoint("unix:///a+b", 2); got != (Endpoint{2, "unix:///a+b", "ttrpc"}) {
		t.Errorf("an address without protocol is %+v", got)
	}
	if got := (Endpoint{}).String(); got != "" {
		t.Errorf("no endpoint is %q", got)
	}
}

func TestBinaryNameOfRuntime(t *testing.T) {
	for runtime, want := range map[string]string{
		"io.containerd.runc.v2":   "containerd-shim-runc-v2",
		"io.containerd.runhcs.v1": "containerd-shim-runhcs-v1",
		"a.b":                     "containerd-shim-a-b",
		"runc":                    "", ".runc.v2": "", "": "",
	} {
		if got := binaryName(runtime); got != want {
			t.Errorf("%q is run by %q, want %q", runtime, got, want)
		}
	}
}

func TestShimBesideTheDaemonIsFound(t *testing.T) {
	dir := t.TempDir()
	shim := filepath.Join(dir, "containerd-shim-beside-v1")
	if err := os.WriteFile(shim, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	f := finder{daemon: filepath.Join(dir, "containerd"), found: map[string]string{}}
	for range 2 { // the second time from memory
		if got, err := f.binary("io.containerd.beside.v1", ""); err != nil || got != shim {
			t.Errorf("found %q, %v", got, err)
		}
		os.Remove(shim)
	}
	if _, err := f.binary("io.containerd.runc.v2", "relative/path"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a relative runtime path: %v", err)
	}
}

func TestDialRefusesWhatItDoesNotSpeak(t *testing.T) {
	for _, e := range []Endpoint{{3, "vsock://2:1024", "ttrpc"}, {2, "unix:///x", "grpc"}, {3, "unix:///x", "carrier-pigeon"}} {
		if _, err := dial(t.Context(), e, func() {}); !errdefs.IsNotImplemented(err) {
			t.Errorf("%v: %v", e, err)
		}
	}
	if _, err := dial(t.Context(), Endpoint{3, "unix:///no/such/socket", "ttrpc"}, func() {}); err == nil || !strings.Contains(err.Error(), "/no/such/socket") {
		t.Error(err)
	}
}
