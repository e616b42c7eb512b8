// SPDX-License-Identifier: Apache-2.0

// Package bytestream carries bytes in containerd's streams of messages.
//
// A Writer sends them as Data, a Reader grants with WindowUpdate how many may
// come: a Writer sends no more than that. The end of the stream is the end of
// the bytes. A small window has both ends wait for each other after every few
// messages; other implementations grant 64 KiB ahead and send 32 KiB at once.
//
// Both take the bytes past the messages that hold them, which saves a copy or
// three of each: the connection must use Codec.
package bytestream

import (
	"fmt"
	"io"

	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	window   = 1 << 20   // bytes that a Reader grants ahead
	minChunk = 32 << 10  // bytes in a message of a Writer, if granted,
	maxChunk = 256 << 10 // up to this with a larger window
)

// A Stream is either end of a stream. One goroutine may send and another one
// receive.
type Stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// A Reader receives bytes.
type Reader struct {
	stream  Stream
	granted int // bytes that may still come
	chunk   chunk
	err     error
}

// NewReader returns a Reader of a stream from which nobody else receives.
func NewReader(s Stream) *Reader { return &Reader{stream: s} }

// Read returns what has come. Its errors stay.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.next(); err != nil {
		return 0, err
	}
	return r.chunk.Read(p)
}

// WriteTo passes all bytes on to w.
func (r *Reader) WriteTo(w io.Writer) (sum int64, err error) {
	for {
		if err := r.next(); err == io.EOF {
			return sum, nil
		} else if err != nil {
			return sum, err
		}
		n, err := r.chunk.WriteTo(w)
		sum += n
		if err != nil {
			return sum, err
		}
	}
}

// next makes sure that the chunk holds bytes.
func (r *Reader) next() error {
	for r.chunk.Remaining() == 0 && r.err == nil {
		r.err = r.receive()
	}
	return r.err
}

func (r *Reader) receive() error {
	if r.granted <= window/2 {
		n := window - r.granted
		// A client's end tells by io.EOF that receiving will say why it is over.
		if err := send(r.stream, &wire.WindowUpdate{Update: int32(n)}); err != nil && err != io.EOF {
			return err
		}
		r.granted += n
	}
	if err := r.stream.RecvMsg(&r.chunk); err != nil {
		return err
	}
	// More than was granted is taken: the transport bounds it as well.
	r.granted = max(r.granted-r.chunk.Remaining(), 0)
	return nil
}

// A Writer sends bytes.
type Writer struct {
	stream  Stream
	granted int // bytes that may be sent
	pool    mem.BufferPool
}

// NewWriter returns a Writer to a stream from which nobody else receives.
func NewWriter(s Stream) *Writer {
	return &Writer{stream: s, pool: mem.NewTieredBufferPool(minChunk, maxChunk)}
}

// Write returns when the last byte is on its way.
func (w *Writer) Write(p []byte) (sent int, err error) {
	for sent < len(p) {
		if err := w.await(); err != nil {
			return sent, err
		}
		// A quarter of the window lets the receiver grant more in time.
		n := min(len(p)-sent, w.granted, min(max(w.granted/4, minChunk), maxChunk))
		if err := w.stream.SendMsg(newChunk(p[sent:sent+n], w.pool)); err != nil {
			return sent, err
		}
		w.granted -= n
		sent += n
	}
	return sent, nil
}

// await returns when at least one byte may be sent.
func (w *Writer) await() error {
	for w.granted <= 0 {
		var a anypb.Any
		err := w.stream.RecvMsg(&a)
		if err == io.EOF {
			return fmt.Errorf("byte stream: the receiver has gone: %w", errdefs.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		var u wire.WindowUpdate
		if err := typeurl.UnmarshalTo(&a, &u); err != nil {
			return fmt.Errorf("byte stream: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if u.Update < 0 {
			return fmt.Errorf("byte stream: window of %d bytes: %w", u.Update, errdefs.ErrInvalidArgument)
		}
		w.granted += int(u.Update)
	}
	return nil
}

func send(s Stream, u *wire.WindowUpdate) error {
	a, err := typeurl.MarshalAnyToProto(u)
	if err != nil {
		return err
	}
	return s.SendMsg(a)
}
