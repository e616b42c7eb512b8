// SPDX-License-Identifier: Apache-2.0

// Package ttrpc speaks the ttrpc protocol: unary calls over a unix socket, as
// containerd's daemon and shims speak it. It exists beside the published
// library for the shim, which must link neither grpc nor the protobuf runtime;
// messages are those of package pb.
//
// A frame is a header of ten bytes, big endian, and a payload:
//
//	length uint32 | stream uint32 | type uint8 | flags uint8 | payload
//
// A call is one request frame; its answer is one response frame with the same
// stream number. Calls on one connection run side by side. Streams of data
// frames are not served.
package ttrpc

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxMessage is the largest payload that either side may send.
const maxMessage = 4 << 20

const (
	typeRequest  = 1
	typeResponse = 2
)

const (
	flagRemoteClosed = 1 // the sender sends nothing more on this stream
	flagRemoteOpen   = 2 // the sender sends data frames after the request
)

type frame struct {
	stream  uint32
	kind    uint8
	flags   uint8
	payload []byte
}

// request is the payload of a request frame.
type request struct {
	Service  string      `pb:"1"`
	Method   string      `pb:"2"`
	Payload  []byte      `pb:"3"`
	Timeout  int64       `pb:"4"` // nanoseconds, 0 for none
	Metadata []*keyValue `pb:"5"`
}

type keyValue struct {
	Key   string `pb:"1"`
	Value string `pb:"2"`
}

// response is the payload of a response frame.
type response struct {
	Status  *status `pb:"1"`
	Payload []byte  `pb:"2"`
}

// status is google.rpc.Status without its details.
type status struct {
	Code    int32  `pb:"1"`
	Message string `pb:"2"`
}

func readFrame(r io.Reader) (frame, error) {
	var head [10]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{stream: binary.BigEndian.Uint32(head[4:]), kind: head[8], flags: head[9]}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxMessage {
		_, err := io.CopyN(io.Discard, r, int64(size))
		if err == nil {
			err = tooLarge(size)
		}
		return f, err
	}
	f.payload = make([]byte, size)
	_, err := io.ReadFull(r, f.payload)
	return f, err
}

func writeFrame(w io.Writer, f frame) error {
	if len(f.payload) > maxMessage {
		return tooLarge(len(f.payload))
	}
	b := make([]byte, 0, 10+len(f.payload))
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.payload)))
	b = binary.BigEndian.AppendUint32(b, f.stream)
	b = append(b, f.kind, f.flags)
	_, err := w.Write(append(b, f.payload...))
	return err
}

// tooLarge is the size of a message that exceeds the limit.
type tooLarge int

func (n tooLarge) Error() string {
	return fmt.Sprintf("message of %d bytes is over the limit of %d", int(n), maxMessage)
}
