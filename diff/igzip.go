// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
)

// igzipFrom is how many bytes of a stream there must be for a process to pay:
// it starts in the time in which we unpack a tenth of that.
const igzipFrom = 512 << 10

// gunzip unpacks gzip, by igzip of ISA-L if that is installed, which takes half
// of our processor time and none of our threads. Unlike upstream we leave
// unpigz alone: it takes more than we do. CONTAINERD_DISABLE_IGZIP=1 keeps
// everything in the process.
func gunzip(r *bufio.Reader) (io.ReadCloser, error) {
	program := findIgzip()
	if program == "" {
		return gzip.NewReader(r)
	}
	first, err := io.ReadAll(io.LimitReader(r, igzipFrom))
	if err != nil {
		return nil, err
	}
	all := io.MultiReader(bytes.NewReader(first), r)
	if len(first) == igzipFrom {
		if z, err := startIgzip(program, all); err == nil {
			return z, nil
		}
	}
	return gzip.NewReader(all)
}

func findIgzip() string {
	if off, err := strconv.ParseBool(os.Getenv("CONTAINERD_DISABLE_IGZIP")); err == nil && off {
		return ""
	}
	program, err := exec.LookPath("igzip")
	if err != nil {
		return ""
	}
	return program
}

// igzip is what the program writes. It ends in an error if the program, or
// what it reads from, does.
type igzip struct {
	cmd    *exec.Cmd
	out    io.ReadCloser
	in     packed
	stderr tail
	wait   func() error // how it ended, for any number of callers
}

// packed remembers the error by which a reader ended.
type packed struct {
	io.Reader
	err error
}

func (p *packed) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if err != nil && err != io.EOF {
		p.err = err
	}
	return n, err
}

func startIgzip(program string, r io.Reader) (*igzip, error) {
	z := &igzip{cmd: exec.Command(program, "-d", "-c"), in: packed{Reader: r}}
	z.wait = sync.OnceValue(z.end)
	z.cmd.Stdin, z.cmd.Stderr = &z.in, &z.stderr
	var err error
	if z.out, err = z.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return z, z.cmd.Start()
}

func (z *igzip) Read(b []byte) (int, error) {
	n, err := z.out.Read(b)
	if err == io.EOF {
		if ended := z.wait(); ended != nil {
			err = ended
		}
	}
	return n, err
}

func (z *igzip) end() error {
	err := z.cmd.Wait()
	if z.in.err != nil {
		return z.in.err
	}
	if err != nil {
		return fmt.Errorf("gzip: igzip: %w: %s: %w", err, bytes.TrimSpace(z.stderr), errdefs.ErrInvalidArgument)
	}
	return nil
}

// Close ends the program and waits until nothing reads the stream any more.
func (z *igzip) Close() error {
	z.cmd.Process.Kill() // it may have ended
	z.out.Close()
	z.wait()
	return nil
}
