// SPDX-License-Identifier: Apache-2.0

package bytestream

import (
	"bytes"
	"fmt"
	"io"

	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// chunk is an Any that holds a Data, as the bytes that stand on the wire. The
// last ones of them are those that it carries.
type chunk struct {
	out mem.BufferSlice // a message to send
	in  *mem.Reader     // the bytes of a message that was received
}

// dataURL is the type of a Data. fields are the numbers of what is used of
// the two messages.
const (
	dataURL      = "containerd.types.transfer.Data"
	fieldTypeURL = 1
	fieldValue   = 2
	fieldData    = 1

	maxHead = len(dataURL) + 4 + 2*10 // three tags, three lengths
)

// newChunk makes a message that carries p, which is copied: the transport may
// hold it for a while.
func newChunk(p []byte, pool mem.BufferPool) *chunk {
	return &chunk{out: mem.BufferSlice{mem.SliceBuffer(appendHead(nil, len(p))), mem.Copy(p, pool)}}
}

// appendHead appends what stands before the n bytes of a message.
func appendHead(b []byte, n int) []byte {
	data := protowire.AppendVarint(protowire.AppendTag(nil, fieldData, protowire.BytesType), uint64(n))
	b = protowire.AppendTag(b, fieldTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, dataURL)
	b = protowire.AppendTag(b, fieldValue, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(data)+n))
	return append(b, data...)
}

// headOf is the length of the head of a message, 0 for one that is not
// written as we do it.
func headOf(msg mem.BufferSlice) int {
	var buf [maxHead]byte
	begin := buf[:msg.CopyTo(buf[:])]
	head := appendHead(nil, 0)
	for size := len(head); size <= len(begin); size++ {
		if head = appendHead(head[:0], msg.Len()-size); len(head) == size {
			if bytes.HasPrefix(begin, head) {
				return size
			}
			return 0
		}
	}
	return 0
}

// set takes what a message carries.
func (c *chunk) set(msg mem.BufferSlice, plain encoding.CodecV2) error {
	if c.in == nil {
		c.in = &mem.Reader{}
	}
	if head := headOf(msg); head > 0 {
		c.in.Reset(msg)
		_, err := c.in.Discard(head)
		return err
	}
	var a anypb.Any
	if err := plain.Unmarshal(msg, &a); err != nil {
		return err
	}
	var d wire.Data
	if err := typeurl.UnmarshalTo(&a, &d); err != nil {
		return fmt.Errorf("byte stream: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	c.in.Reset(mem.BufferSlice{mem.SliceBuffer(d.Data)})
	return nil
}

// Remaining is how many received bytes have not been read.
func (c *chunk) Remaining() int {
	if c.in == nil {
		return 0
	}
	return c.in.Remaining()
}

func (c *chunk) Read(p []byte) (int, error) { return c.in.Read(p) }

// WriteTo writes the bytes piece by piece, as they came.
func (c *chunk) WriteTo(w io.Writer) (sum int64, err error) {
	pieces, err := c.in.Peek(c.in.Remaining(), nil)
	if err != nil {
		return 0, err
	}
	for _, p := range pieces {
		n, err := w.Write(p)
		sum += int64(n)
		if err != nil {
			return sum, err
		}
	}
	return sum, c.in.Close()
}

// Encoded is a message to send that is encoded already. Who sends it frees its
// buffers.
type Encoded mem.BufferSlice

// Codec is that of protocol buffers, which also takes the bytes of Readers,
// Writers and messages that are Encoded as they are.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(grpcproto.Name)} }

type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *chunk:
		return m.out, nil
	case Encoded:
		return mem.BufferSlice(m), nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(msg mem.BufferSlice, v any) error {
	if m, ok := v.(*chunk); ok {
		return m.set(msg, c.CodecV2)
	}
	return c.CodecV2.Unmarshal(msg, v)
}
