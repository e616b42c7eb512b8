// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"slipway/internal/bytestream"
	"slipway/meta"
)

// The lists of containers and images go from the database to the wire in one
// copy, through buffers that are used again: what they cost else is mostly the
// memory that a list of many needs, at its first touch. A test compares them
// with what containerProto and imageProto make.

// A listing is a message that is encoded piece by piece.
type listing struct {
	pieces bytestream.Encoded
	last   []byte
}

// pieceSize is a size of the buffers that grpc keeps.
const pieceSize = 32 << 10

// add adds what fields appends.
func (l *listing) add(fields func([]byte) []byte) {
	l.last = fields(l.last)
	rest := l.last
	for ; len(rest) >= pieceSize; rest = rest[pieceSize:] {
		l.pieces = append(l.pieces, mem.Copy(rest[:pieceSize], mem.DefaultBufferPool()))
	}
	l.last = l.last[:copy(l.last, rest)]
}

func (l *listing) message() bytestream.Encoded {
	return append(l.pieces, mem.SliceBuffer(l.last))
}

// encodes is a service whose method has an answer that is encoded already.
func encodes[R any](desc grpc.ServiceDesc, method string, handle func(context.Context, *R) (bytestream.Encoded, error)) *grpc.ServiceDesc {
	desc.Methods = slices.Clone(desc.Methods)
	i := slices.IndexFunc(desc.Methods, func(m grpc.MethodDesc) bool { return m.MethodName == method })
	call := func(ctx context.Context, r any) (any, error) { return handle(ctx, r.(*R)) }
	desc.Methods[i].Handler = func(s any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
		r := new(R)
		if err := decode(r); err != nil {
			return nil, err
		}
		if around == nil {
			return call(ctx, r)
		}
		return around(ctx, r, &grpc.UnaryServerInfo{Server: s, FullMethod: "/" + desc.ServiceName + "/" + method}, call)
	}
	return &desc
}

// Field numbers of the messages, as the API has them.
const (
	listContainers, listImages = 1, 1

	containerID, containerLabels, containerImage, containerRuntime, containerSpec, containerSnapshotter = 1, 2, 3, 4, 5, 6
	containerSnapshotKey, containerCreated, containerUpdated, containerExtensions, containerSandbox     = 7, 8, 9, 10, 11

	runtimeName, runtimeOptions = 1, 2

	imageName, imageLabels, imageTarget, imageCreated, imageUpdated = 1, 2, 3, 7, 8

	targetMediaType, targetDigest, targetSize, targetAnnotations = 1, 2, 3, 5

	timeSeconds, timeNanos = 1, 2
	pairKey, pairValue     = 1, 2
)

// appendContainerField appends a container as one of a list, or as that of a
// message of a stream.
func appendContainerField(b []byte, r meta.ContainerRecord) []byte {
	return appendMessage(b, listContainers, func(b []byte) []byte { return appendContainer(b, r) })
}

func appendContainer(b []byte, r meta.ContainerRecord) []byte {
	b = appendBytes(b, containerID, r.ID)
	b = appendPairs(b, containerLabels, r.Labels)
	b = appendBytes(b, containerImage, r.Image)
	b = appendMessage(b, containerRuntime, func(b []byte) []byte {
		b = appendBytes(b, runtimeName, r.Runtime.Name)
		return appendEncoded(b, runtimeOptions, r.Runtime.Options)
	})
	b = appendEncoded(b, containerSpec, r.Spec)
	b = appendBytes(b, containerSnapshotter, r.Snapshotter)
	b = appendBytes(b, containerSnapshotKey, r.SnapshotKey)
	b = appendTime(b, containerCreated, r.CreatedAt)
	b = appendTime(b, containerUpdated, r.UpdatedAt)
	b = appendPairs(b, containerExtensions, r.Extensions)
	return appendBytes(b, containerSandbox, r.Sandbox)
}

// appendImageField appends an image as one of a list.
func appendImageField(b []byte, r meta.ImageRecord) []byte {
	return appendMessage(b, listImages, func(b []byte) []byte { return appendImage(b, r) })
}

func appendImage(b []byte, r meta.ImageRecord) []byte {
	b = appendBytes(b, imageName, r.Name)
	b = appendPairs(b, imageLabels, r.Labels)
	b = appendMessage(b, imageTarget, func(b []byte) []byte {
		b = appendBytes(b, targetMediaType, r.MediaType)
		b = appendBytes(b, targetDigest, r.Digest)
		b = appendNumber(b, targetSize, r.Size)
		return appendPairs(b, targetAnnotations, r.Annotations)
	})
	b = appendTime(b, imageCreated, r.CreatedAt)
	return appendTime(b, imageUpdated, r.UpdatedAt)
}

// appendBytes adds a string, which is not there if it is empty.
func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return appendEncoded(b, field, v)
}

// appendEncoded adds a message, which is not there if it is nil.
func appendEncoded(b []byte, field protowire.Number, v []byte) []byte {
	if v == nil {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendNumber(b []byte, field protowire.Number, n int64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(n))
}

func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	return appendMessage(b, field, func(b []byte) []byte {
		return appendNumber(appendNumber(b, timeSeconds, t.Unix()), timeNanos, int64(t.Nanosecond()))
	})
}

func appendPairs(b []byte, field protowire.Number, p meta.Pairs) []byte {
	p.Each(func(k, v []byte) {
		b = appendMessage(b, field, func(b []byte) []byte {
			return appendBytes(appendBytes(b, pairKey, k), pairValue, v)
		})
	})
	return b
}

// appendMessage adds what content appends, with its length before it.
func appendMessage(b []byte, field protowire.Number, content func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	start := len(b)
	b = content(b)
	end := len(b)
	b = protowire.AppendVarint(b, uint64(end-start)) // makes the room
	room := len(b) - end
	copy(b[start+room:], b[start:end])
	protowire.AppendVarint(b[:start], uint64(end-start))
	return b
}
