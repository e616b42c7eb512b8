// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"io"

	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"

	"slipway/transfer"
)

// A byte stream carries Data one way and WindowUpdate the other: a sender
// sends no more bytes than the receiver has granted. The end of the stream is
// the end of the bytes.
const (
	maxData = 32 << 10 // bytes in one Data
	window  = 64 << 10 // bytes granted ahead
)

// byteReader receives bytes.
type byteReader struct {
	stream  transfer.Stream
	granted int // bytes that may still come
	rest    []byte
	err     error
}

func newByteReader(s transfer.Stream) *byteReader { return &byteReader{stream: s} }

// Read returns what has come. Its errors stay.
func (r *byteReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 && len(p) > 0 {
		if r.err == nil {
			r.err = r.receive()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *byteReader) receive() error {
	if r.granted <= window/2 {
		n := window - r.granted
		if err := sendMessage(r.stream, &wire.WindowUpdate{Update: int32(n)}); err != nil {
			return err
		}
		r.granted += n
	}
	a, err := r.stream.Recv()
	if err != nil {
		return err
	}
	var d wire.Data
	if err := typeurl.UnmarshalTo(a, &d); err != nil {
		return fmt.Errorf("byte stream: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	// More than was granted is taken: the transport bounds it as well.
	r.granted = max(r.granted-len(d.Data), 0)
	r.rest = d.Data
	return nil
}

// byteWriter sends bytes.
type byteWriter struct {
	stream  transfer.Stream
	granted int // bytes that may be sent
}

func newByteWriter(s transfer.Stream) *byteWriter { return &byteWriter{stream: s} }

// Write returns when the last byte is on its way.
func (w *byteWriter) Write(p []byte) (sent int, err error) {
	for sent < len(p) {
		if err := w.await(); err != nil {
			return sent, err
		}
		n := min(len(p)-sent, maxData, w.granted)
		// The transport may still hold the message, and p is the caller's.
		data := append([]byte(nil), p[sent:sent+n]...)
		if err := sendMessage(w.stream, &wire.Data{Data: data}); err != nil {
			return sent, err
		}
		w.granted -= n
		sent += n
	}
	return sent, nil
}

// await returns when at least one byte may be sent.
func (w *byteWriter) await() error {
	for w.granted <= 0 {
		a, err := w.stream.Recv()
		if err == io.EOF {
			return fmt.Errorf("byte stream: the receiver has gone: %w", errdefs.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		var u wire.WindowUpdate
		if err := typeurl.UnmarshalTo(a, &u); err != nil {
			return fmt.Errorf("byte stream: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if u.Update < 0 {
			return fmt.Errorf("byte stream: window of %d bytes: %w", u.Update, errdefs.ErrInvalidArgument)
		}
		w.granted += int(u.Update)
	}
	return nil
}

func sendMessage(s transfer.Stream, m proto.Message) error {
	a, err := typeurl.MarshalAnyToProto(m)
	if err != nil {
		return err
	}
	return s.Send(a)
}

// echo passes the bytes of an import on as an export.
func (m *move) echo(ctx context.Context, from *wire.ImageImportStream, to *wire.ImageExportStream) error {
	in, err := m.stream(ctx, from.Stream)
	if err != nil {
		return err
	}
	out, err := m.stream(ctx, to.Stream)
	if err != nil {
		return err
	}
	_, err = io.Copy(newByteWriter(out), newByteReader(in))
	return err
}
