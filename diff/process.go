// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// A Processor is a program that turns layers of some media types into another
// one, such as encrypted layers into plain ones. It reads the layer from its
// standard input and writes to its standard output; STREAM_PROCESSOR_MEDIATYPE
// tells it what it reads, and descriptor 3 is the payload that the client
// gave for it, an encoded Any.
type Processor struct {
	Name    string
	Accepts []string
	Returns string
	Path    string
	Args    []string
	Env     []string
}

// maxProcessors is how many processors one layer may need.
const maxProcessors = 16

// processorsFor finds those that make a plain layer of a media type, in the
// order in which they run.
func (o ApplyOpts) processorsFor(mediaType string) (chain []Processor, err error) {
	for {
		err := checkLayer(mediaType)
		if err == nil {
			return chain, nil
		}
		i := slices.IndexFunc(o.Processors, func(p Processor) bool { return slices.Contains(p.Accepts, mediaType) })
		if i < 0 || len(chain) == maxProcessors {
			return nil, err
		}
		chain = append(chain, o.Processors[i])
		mediaType = o.Processors[i].Returns
	}
}

// processed opens a layer that runs through its processors. Closing it ends
// them.
func (o ApplyOpts) processed(ctx context.Context, mediaType string, chain []Processor, open func() (io.ReadCloser, error)) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		layer, err := open()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		r := &processing{Reader: layer, layer: layer, cancel: cancel}
		for _, c := range chain {
			p, err := c.start(ctx, mediaType, o.Payloads[c.Name], r.Reader)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("stream processor %s: %w", c.Name, err), r.Close())
			}
			r.running, r.Reader, mediaType = append(r.running, p), p, c.Returns
		}
		return r, nil
	}
}

// processing is the end of a chain of programs.
type processing struct {
	io.Reader
	layer   io.Closer
	running []*processed
	cancel  context.CancelFunc
}

func (r *processing) Close() error {
	r.cancel()
	for _, p := range r.running {
		p.wait()
		p.out.Close()
	}
	return r.layer.Close()
}

// processed is what a processor writes. It ends in an error if the program
// does.
type processed struct {
	name    string
	cmd     *exec.Cmd
	out     *os.File
	stderr  tail
	payload chan struct{} // closed when the payload is written
	wait    func() error  // how the program ended, for any number of callers
}

// leftTime is how long what a program leaves running may keep its streams.
const leftTime = 5 * time.Second

func (c Processor) start(ctx context.Context, mediaType string, payload *anypb.Any, layer io.Reader) (_ *processed, err error) {
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	p := &processed{name: c.Name, cmd: exec.CommandContext(ctx, c.Path, c.Args...), out: out, payload: make(chan struct{})}
	defer func() {
		if err != nil {
			out.Close()
		}
	}()
	p.wait = sync.OnceValue(p.end)
	p.cmd.WaitDelay = leftTime
	p.cmd.Env = append(append(os.Environ(), c.Env...), "STREAM_PROCESSOR_MEDIATYPE="+mediaType)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = layer, stdout, &p.stderr
	if payload == nil {
		close(p.payload)
		return p, p.cmd.Start()
	}
	return p, p.startWith(payload)
}

// startWith gives the program a payload, which it need not read.
func (p *processed) startWith(payload *anypb.Any) error {
	data, err := proto.Marshal(payload)
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	in, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	p.cmd.ExtraFiles = []*os.File{in}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, w.Close())
	}
	go func() {
		defer close(p.payload)
		w.Write(data)
		w.Close()
	}()
	return nil
}

func (p *processed) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if err != io.EOF {
		return n, err
	}
	if ended := p.wait(); ended != nil {
		err = ended
	}
	return n, err
}

func (p *processed) end() error {
	err := p.cmd.Wait()
	<-p.payload // the last reader of the pipe is gone
	if err != nil {
		return fmt.Errorf("stream processor %s: %w: %s", p.name, err, bytes.TrimSpace(p.stderr))
	}
	return nil
}

// tail keeps the last bytes of what is written.
type tail []byte

func (t *tail) Write(b []byte) (int, error) {
	const most = 4096
	*t = append(*t, b...)
	if n := len(*t) - most; n > 0 {
		*t = append((*t)[:0], (*t)[n:]...)
	}
	return len(b), nil
}
