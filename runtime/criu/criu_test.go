// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
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

// file is an entry of files.img.
func file(name string) []byte {
	var reg, entry fields
	reg.number(1, 4)
	reg.number(2, 0o2001) // O_APPEND
	reg.number(3, 77)
	reg.text(6, name)
	reg.number(8, 500)
	reg.flag(9, true)
	reg.number(10, 0o100644)
	entry.number(1, 1)
	entry.number(2, 4)
	entry.message(3, reg)
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(entry))), entry...)
}

// filesOf reads files.img: the numbers in each file's entry, by its name.
func filesOf(t *testing.T, data []byte) map[string]map[number]uint64 {
	t.Helper()
	all := map[string]map[number]uint64{}
	for data = data[8:]; len(data) > 0; {
		size := binary.LittleEndian.Uint32(data)
		err := eachField(data[4:4+size], func(n number, _ uint64, b []byte) error {
			if n != 3 {
				return nil
			}
			numbers, name := map[number]uint64{}, ""
			defer func() { all[name] = numbers }()
			return eachField(b, func(n number, v uint64, b []byte) error {
				if numbers[n] = v; n == 6 {
					name = string(b)
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		data = data[4+size:]
	}
	return all
}

func TestImagesTakeReplacements(t *testing.T) {
	images := t.TempDir()
	data := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, commonMagic), filesMagic)
	for _, name := range []string{"file[1:2]", "file[1:3]", "/kept"} {
		data = append(data, file(name)...)
	}
	if err := os.WriteFile(filepath.Join(images, FilesImage), data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Replaceable(images, []Replacement{{"file[1:2]", true}, {"file[1:3]", false}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		position  uint64
		described bool
	}{"file[1:2]": {math.MaxUint64, false}, "file[1:3]": {77, false}, "/kept": {77, true}} {
		f := filesOf(t, got)[name]
		_, size := f[8]
		_, mode := f[10]
		if f[1] != 4 || f[2] != 0o2001 || f[3] != c.position || f[9] != 1 || size != c.described || mode != c.described {
			t.Errorf("%s: %v", name, f)
		}
	}
	if now, _ := os.ReadFile(filepath.Join(images, FilesImage)); !slices.Equal(now, data) {
		t.Error("the images have changed")
	}
	for _, bad := range [][]byte{nil, []byte("12345678"), data[:len(data)-1], data[:10], append(slices.Clone(data), 1, 0, 0, 0, 0)} {
		if _, err := replaceable(bad, nil); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzReplaceable(f *testing.F) {
	header := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, commonMagic), filesMagic)
	f.Add(append(header, file("a")...))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = replaceable(data, []Replacement{{"a", true}}) })
}
