// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestRequest(t *testing.T) {
	o := Options{
		Pid: 7, Root: "/r", LeaveRunning: true, EmptyNamespaces: 5, ManageCgroups: "full", PageServer: "h", PageServerPort: 9,
		Mounts: [][2]string{{"/a", "/b"}}, External: []string{"net[1]:x"}, CgroupRoots: map[string]string{"cpu": "/c"},
		Inherit: []Inherited{{Name: "pipe:[3]", Fd: 1}}, JoinNS: [][2]string{{"uts", "/n"}},
	}
	numbers, texts := map[number]uint64{}, map[number]string{}
	err := eachField(o.encode(Dump), func(n number, v uint64, b []byte) error {
		numbers[n], texts[n] = v, string(b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[number]uint64{2: 7, 3: 1, 4: 0, 9: 4, 12: 1, 26: 0, 34: 4, 38: 5, 50: 1} {
		if numbers[n] != want {
			t.Errorf("field %d: %d, want %d", n, numbers[n], want)
		}
	}
	for n, want := range map[number]string{
		10: "dump.log", 11: "\n\x01h\x10\t", 13: "/r", 23: "\n\x02/a\x12\x02/b", 25: "\n\x03cpu\x12\x02/c", 27: "\n\x08pipe:[3]\x10\x01",
		37: "net[1]:x", 39: "\n\x03uts\x12\x02/n",
	} {
		if texts[n] != want {
			t.Errorf("field %d: %q, want %q", n, texts[n], want)
		}
	}
}

func TestResponse(t *testing.T) {
	var inner, f fields
	inner.text(1, "post-restore")
	inner.number(2, 77)
	f.number(1, uint64(notify))
	f.flag(2, true)
	f.message(5, inner)
	f.number(7, 3)
	f.text(9, "why")
	r, err := parseResponse(f)
	if want := (response{notify, true, "post-restore", "why", 77, 3}); err != nil || r != want {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := parseResponse(f[:len(f)-1]); err == nil {
		t.Error("a cut response is accepted")
	}
}

func TestTheLogSaysWhy(t *testing.T) {
	o := Options{Work: t.TempDir()}
	text := "(00.01) Warn  (x.c:1): careful\n(00.02) Error (y.c:2): no such thing\n(00.03) Error (z.c:3): later\n"
	if err := os.WriteFile(filepath.Join(o.Work, "dump.log"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := o.firstError(Dump); got != ": (y.c:2): no such thing" {
		t.Errorf("got %q", got)
	}
	if got := o.firstError(Restore); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestWithoutCRIU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := (&Session{}).Do(t.Context(), Dump, Options{})
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "criu") {
		t.Errorf("got %v", err)
	}
	if err := (&Session{}).Do(t.Context(), Dump, Options{ManageCgroups: "wild"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("got %v", err)
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("\x08\x06\x10\x01\x2a\x02\x0a\x00"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = parseResponse(data) })
}
