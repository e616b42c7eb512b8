// SPDX-License-Identifier: Apache-2.0

package ttrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"slipway/internal/pb"
)

// ErrBroken is in the chain of errors of the connection, as opposed to those
// that the server answered.
var ErrBroken = errors.New("connection broken")

// A Client makes calls, one after the other, on one connection, which it
// opens when it is needed. It is for one goroutine.
type Client struct {
	Path string // of the unix socket

	conn   net.Conn
	stream uint32
}

// Call makes one call, with metadata, and decodes the answer into resp. It
// ends with ctx. A connection that an earlier call left and that the peer has
// closed since is opened again, once.
func (c *Client) Call(ctx context.Context, service, method string, metadata map[string]string, req, resp any) error {
	r := &request{Service: service, Method: method, Payload: pb.Marshal(req)}
	if end, ok := ctx.Deadline(); ok {
		r.Timeout = int64(time.Until(end))
	}
	for k, v := range metadata {
		r.Metadata = append(r.Metadata, &keyValue{k, v})
	}
	reused := c.conn != nil
	answer, err := c.exchange(ctx, r)
	if err != nil && reused && ctx.Err() == nil {
		answer, err = c.exchange(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("call %s of %s at %s: %w: %w", method, service, c.Path, err, ErrBroken)
	}
	if err := answer.Status.err(); err != nil {
		return err
	}
	return pb.Unmarshal(answer.Payload, resp)
}

// Close closes the connection; a later call opens it again.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *Client) exchange(ctx context.Context, r *request) (_ *response, err error) {
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.conn == nil {
		if c.conn, err = new(net.Dialer).DialContext(ctx, "unix", c.Path); err != nil {
			return nil, err
		}
		c.stream = 1 // a client's streams are odd
	}
	end, _ := ctx.Deadline()
	c.conn.SetDeadline(end)
	stop := context.AfterFunc(ctx, func(conn net.Conn) func() {
		return func() { conn.SetDeadline(time.Unix(1, 0)) }
	}(c.conn))
	defer stop()
	stream := c.stream
	c.stream += 2
	if err := writeFrame(c.conn, frame{stream: stream, kind: typeRequest, flags: flagRemoteClosed, payload: pb.Marshal(r)}); err != nil {
		return nil, err
	}
	for {
		f, err := readFrame(c.conn)
		if err != nil {
			return nil, err
		}
		if f.stream != stream || f.kind != typeResponse {
			continue
		}
		answer := new(response)
		return answer, pb.Unmarshal(f.payload, answer)
	}
}
