// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

// incompressible packs data that is larger than what needs a process.
func incompressible(t testing.TB) (plain, packed []byte) {
	t.Helper()
	plain = make([]byte, 2*igzipFrom)
	rand.New(rand.NewSource(1)).Read(plain)
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(plain)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return plain, buf.Bytes()
}

// readers makes readers of some data.
func readers(parts ...[]byte) func() io.Reader {
	return func() io.Reader { return bytes.NewReader(bytes.Join(parts, nil)) }
}

func unpack(r io.Reader) ([]byte, error) {
	z, _, err := Decompress(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

func TestGzipIsUnpackedAlikeByIgzipAndByOurselves(t *testing.T) {
	if _, err := exec.LookPath("igzip"); err != nil {
		t.Log("igzip is not installed")
	}
	plain, packed := incompressible(t)
	broken := bytes.Clone(packed)
	broken[len(broken)-6] ^= 1 // of the checksum
	gone := errors.New("the network is gone")
	for name, c := range map[string]struct {
		r    func() io.Reader
		want []byte
		bad  func(error) bool
	}{
		"whole":       {readers(packed), plain, nil},
		"two members": {readers(packed, packed), append(bytes.Clone(plain), plain...), nil},
		"truncated":   {readers(packed[:len(packed)-100]), nil, func(err error) bool { return errdefs.IsInvalidArgument(err) || errors.Is(err, io.ErrUnexpectedEOF) }},
		"checksum": {readers(broken), nil, func(err error) bool {
			return errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "checksum")
		}},
		"source fails": {func() io.Reader { return io.MultiReader(readers(packed[:igzipFrom+1])(), iotest.ErrReader(gone)) }, nil, func(err error) bool { return errors.Is(err, gone) }},
		"fails early":  {func() io.Reader { return io.MultiReader(readers(packed[:100])(), iotest.ErrReader(gone)) }, nil, func(err error) bool { return errors.Is(err, gone) }},
	} {
		for _, off := range []string{"0", "1"} {
			t.Run(name+" "+off, func(t *testing.T) {
				t.Setenv("CONTAINERD_DISABLE_IGZIP", off)
				got, err := unpack(c.r())
				if c.bad == nil && (err != nil || !bytes.Equal(got, c.want)) || c.bad != nil && (err == nil || !c.bad(err)) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
	}
}

func TestClosingEndsIgzip(t *testing.T) {
	if findIgzip() == "" {
		t.Skip("needs igzip")
	}
	_, packed := incompressible(t)
	z, _, err := Decompress(io.MultiReader(bytes.NewReader(packed), bytes.NewReader(packed)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	p, ok := z.(*igzip)
	if !ok || p.cmd.ProcessState == nil {
		t.Errorf("%T has not ended", z)
	}
}
