// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A conn is a netlink socket to the kernel's routing tables (rtnetlink(7)).
type conn struct {
	fd       int
	sequence uint32
}

func open() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// A message is the payload of a netlink message.
type message struct {
	kind uint16
	data []byte
}

var native = binary.NativeEndian

// attribute appends an attribute, padded.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = native.AppendUint16(b, kind)
	return pad(append(b, value...))
}

func pad(b []byte) []byte {
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func text(s string) []byte { return append([]byte(s), 0) }

// link is struct ifinfomsg.
func link(index int32, flags, change uint32) []byte {
	b := make([]byte, 4, 64) // family, padding, type
	b = native.AppendUint32(b, uint32(index))
	b = native.AppendUint32(b, flags)
	return native.AppendUint32(b, change)
}

// do sends a request and returns what comes back before the acknowledgement.
func (c *conn) do(kind, flags uint16, data []byte) ([]message, error) {
	c.sequence++
	b := make([]byte, 0, unix.SizeofNlMsghdr+len(data))
	b = native.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(data)))
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = native.AppendUint32(b, c.sequence)
	b = append(native.AppendUint32(b, 0), data...)
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var out []message
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		more, ended, err := parse(buf[:n], c.sequence)
		out = append(out, more...)
		if ended || err != nil {
			return out, err
		}
	}
}

// parse splits a datagram, up to the end of a dump or the acknowledgement.
func parse(b []byte, sequence uint32) (out []message, ended bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size, kind := int(native.Uint32(b)), native.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return nil, true, fmt.Errorf("netlink: %w", io.ErrUnexpectedEOF)
		}
		data := b[unix.SizeofNlMsghdr:size]
		same := native.Uint32(b[8:]) == sequence
		b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
		switch {
		case !same:
		case kind == unix.NLMSG_DONE:
			return out, true, nil
		case kind == unix.NLMSG_ERROR:
			if len(data) < 4 {
				return nil, true, fmt.Errorf("netlink: %w", io.ErrUnexpectedEOF)
			}
			if errno := -int32(native.Uint32(data)); errno != 0 {
				return nil, true, unix.Errno(errno)
			}
			return out, true, nil
		default:
			out = append(out, message{kind, append([]byte(nil), data...)})
		}
	}
	return out, false, nil
}

// index finds a device by its name.
func (c *conn) index(name string) (int32, error) {
	messages, err := c.do(unix.RTM_GETLINK, 0, attribute(link(0, 0, 0), unix.IFLA_IFNAME, text(name)))
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	for _, m := range messages {
		if m.kind == unix.RTM_NEWLINK && len(m.data) >= unix.SizeofIfInfomsg {
			return int32(native.Uint32(m.data[4:])), nil
		}
	}
	return 0, fmt.Errorf("find %s: %w", name, unix.ENODEV)
}

// send moves a device to another namespace, under another name. It must be
// down to be renamed.
func (c *conn) send(index int32, name string, ns *os.File) error {
	if _, err := c.do(unix.RTM_NEWLINK, 0, link(index, 0, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bring down: %w", err)
	}
	b := attribute(link(index, 0, 0), unix.IFLA_NET_NS_FD, native.AppendUint32(nil, uint32(ns.Fd())))
	_, err := c.do(unix.RTM_NEWLINK, 0, attribute(b, unix.IFLA_IFNAME, text(name)))
	return err
}

func (c *conn) up(index int32) error {
	_, err := c.do(unix.RTM_NEWLINK, 0, link(index, unix.IFF_UP, unix.IFF_UP))
	return err
}

// An address is one of a device: struct ifaddrmsg and attributes.
type address struct {
	header [unix.SizeofIfAddrmsg]byte
	attrs  []byte
}

// addresses are those of a device that somebody has set and that others can
// reach: what the kernel makes by itself it makes again.
func (c *conn) addresses(index int32) ([]address, error) {
	messages, err := c.do(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	if err != nil {
		return nil, err
	}
	var out []address
	for _, m := range messages {
		if m.kind != unix.RTM_NEWADDR || len(m.data) < unix.SizeofIfAddrmsg {
			continue
		}
		// family, prefix length, flags, scope, index
		flags, scope, of := m.data[2], m.data[3], int32(native.Uint32(m.data[4:]))
		if of != index || flags&unix.IFA_F_PERMANENT == 0 || scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		a := address{header: [unix.SizeofIfAddrmsg]byte(m.data)}
		if a.attrs, err = keep(m.data[unix.SizeofIfAddrmsg:]); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// keep leaves of an address's attributes what it takes to make it again.
func keep(b []byte) (out []byte, err error) {
	for len(b) >= unix.SizeofRtAttr {
		size, kind := int(native.Uint16(b)), native.Uint16(b[2:])
		if size < unix.SizeofRtAttr || size > len(b) {
			return nil, fmt.Errorf("netlink attribute: %w", io.ErrUnexpectedEOF)
		}
		switch kind {
		case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST:
			out = attribute(out, kind, b[unix.SizeofRtAttr:size])
		}
		b = b[min((size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
	return out, nil
}

// addAddress gives a device an address. That it has it already is no error.
func (c *conn) addAddress(index int32, a address) error {
	b := append([]byte(nil), a.header[:]...)
	b[2] = 0 // flags are the kernel's
	native.PutUint32(b[4:], uint32(index))
	_, err := c.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(b, a.attrs...))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
