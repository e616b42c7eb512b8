// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What is here of D-Bus (dbus.freedesktop.org/doc/dbus-specification.html) is
// what it takes to call systemd: calls with arguments of a few types, replies,
// and the signal that a job has ended. It has no goroutine: whoever waits for a
// reply reads.

// A busError is an error reply.
type busError struct{ name, text string }

func (e *busError) Error() string {
	if e.text == "" {
		return e.name
	}
	return e.text
}

func isBusError(err error, name string) bool {
	var e *busError
	return errors.As(err, &e) && e.name == name
}

// A bus is a connection to systemd.
type bus struct {
	socket *os.File
	in     *bufio.Reader
	serial uint32
	shared bool              // through the message bus
	jobs   map[string]string // results of ended jobs by their object
}

// busPatience is how long systemd may take for everything that one operation
// needs.
const busPatience = 30 * time.Second

// dialBus connects and authenticates as the user that the other end sees.
func dialBus(path string) (_ *bus, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	b := &bus{socket: os.NewFile(uintptr(fd), path), jobs: map[string]string{}}
	defer func() {
		if err != nil {
			b.socket.Close()
			err = fmt.Errorf("%s: %w", path, err)
		}
	}()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	if err := b.socket.SetDeadline(time.Now().Add(busPatience)); err != nil {
		return nil, err
	}
	b.in = bufio.NewReader(b.socket)
	// All in one: systemd (252) forgets a message that it reads together with
	// BEGIN until another one comes, and after the answer there is nothing of
	// it left to read.
	if _, err := fmt.Fprintf(b.socket, "\x00AUTH EXTERNAL %x\r\nBEGIN\r\n", hostUID()); err != nil {
		return nil, err
	}
	answer, err := b.in.ReadString('\n')
	if err == nil && !strings.HasPrefix(answer, "OK ") {
		err = fmt.Errorf("authentication: %q: %w", strings.TrimSpace(answer), errdefs.ErrPermissionDenied)
	}
	return b, err
}

// hostUID is the caller's user outside its user namespace, which is what the
// other end of the socket sees.
func hostUID() string {
	uid := os.Geteuid()
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return fmt.Sprint(uid)
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, count int
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n == 3 && uid >= inside && uid-inside < count {
			return fmt.Sprint(outside + uid - inside)
		}
	}
	return fmt.Sprint(uid)
}

// A destination is an object of a service, with one of its interfaces.
type destination struct{ service, object, iface string }

// Kinds of messages and fields of their headers.
const (
	methodCall = 1 + iota
	methodReturn
	errorReply
	signal
)

const (
	fieldPath = 1 + iota
	fieldInterface
	fieldMember
	fieldErrorName
	fieldReplySerial
	fieldDestination
	fieldSender
	fieldSignature
)

// call calls a method and returns its reply.
func (b *bus) call(to destination, method string, args ...any) (*message, error) {
	b.serial++
	var body encoder
	signature := ""
	for _, arg := range args {
		signature += body.value(arg)
	}
	var m encoder
	m.b = append(m.b, 'l', methodCall, 0, 1) // little endian, no flags, version 1
	m.uint32(uint32(len(body.b)))
	m.uint32(b.serial)
	m.array(8, func() {
		for _, f := range []struct {
			code  byte
			value any
		}{
			{fieldPath, objectPath(to.object)}, {fieldInterface, to.iface}, {fieldMember, method}, {fieldDestination, to.service},
			{fieldSignature, typeSignature(signature)},
		} {
			m.align(8)
			m.b = append(m.b, f.code)
			m.variant(f.value)
		}
	})
	m.align(8)
	if _, err := b.socket.Write(append(m.b, body.b...)); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	reply, err := b.reply(b.serial)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return reply, nil
}

// reply reads messages up to the answer to a call.
func (b *bus) reply(serial uint32) (*message, error) {
	for {
		m, err := b.read()
		switch {
		case err != nil:
			return nil, err
		case m.reply != serial:
			continue
		case m.kind == errorReply:
			return nil, &busError{m.errorName, m.body().string()}
		case m.kind == methodReturn:
			return m, nil
		}
	}
}

// read reads one message, and keeps what a signal says of a job's end:
// JobRemoved(u id, o job, s unit, s result).
func (b *bus) read() (*message, error) {
	m, err := readMessage(b.in)
	if err != nil {
		return nil, err
	}
	if m.kind == signal && m.member == "JobRemoved" && m.signature == "uoss" {
		d := m.body()
		d.uint32()
		job := d.string()
		d.string()
		if result := d.string(); d.err == nil {
			b.jobs[job] = result
		}
	}
	return m, nil
}

// A message is one that came in.
type message struct {
	kind              byte
	reply             uint32
	member, errorName string
	signature         string
	order             binary.ByteOrder
	data              []byte // the body
}

// maxMessage is the specification's limit.
const maxMessage = 1 << 27

// readMessage reads a message of either byte order.
func readMessage(r io.Reader) (*message, error) {
	fixed := make([]byte, 16)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, err
	}
	m := &message{kind: fixed[1], order: binary.LittleEndian}
	if fixed[0] == 'B' {
		m.order = binary.BigEndian
	}
	bodySize, fieldsSize := m.order.Uint32(fixed[4:]), m.order.Uint32(fixed[12:])
	if bodySize > maxMessage || fieldsSize > maxMessage {
		return nil, fmt.Errorf("message of %d and %d bytes: %w", fieldsSize, bodySize, errdefs.ErrInvalidArgument)
	}
	var rest bytes.Buffer // grows with what is there, whatever the sizes say
	padded := (int64(fieldsSize) + 7) / 8 * 8
	if _, err := io.CopyN(&rest, r, padded+int64(bodySize)); err != nil {
		return nil, err
	}
	m.data = rest.Bytes()[padded:]
	return m, m.fields(rest.Bytes()[:fieldsSize])
}

// fields reads the header's array of (code, variant).
func (m *message) fields(data []byte) error {
	d := &decoder{data: data, order: m.order}
	for d.align(8); d.err == nil && d.at < len(data); d.align(8) {
		code := d.byte()
		switch kind := d.signature(); kind {
		case "s", "o":
			text := d.string()
			switch code {
			case fieldMember:
				m.member = text
			case fieldErrorName:
				m.errorName = text
			}
		case "g":
			m.signature = d.signature()
		case "u":
			if n := d.uint32(); code == fieldReplySerial {
				m.reply = n
			}
		default:
			return fmt.Errorf("header field %d of type %q: %w", code, kind, errdefs.ErrNotImplemented)
		}
	}
	return d.err
}

func (m *message) body() *decoder { return &decoder{data: m.data, order: m.order} }

// A decoder reads values. After the first that is not there, all are zero.
type decoder struct {
	data  []byte
	at    int
	order binary.ByteOrder
	err   error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.data)-d.at {
		if d.err == nil {
			d.err = io.ErrUnexpectedEOF
		}
		return nil
	}
	d.at += n
	return d.data[d.at-n : d.at]
}

// align skips padding; what is missing of it at the end is not missed.
func (d *decoder) align(n int) { d.at = min((d.at+n-1)/n*n, len(d.data)) }

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	d.align(4)
	if b := d.take(4); b != nil {
		return d.order.Uint32(b)
	}
	return 0
}

// string reads a string or the path of an object.
func (d *decoder) string() string {
	n := d.uint32()
	if n > maxMessage {
		d.err = io.ErrUnexpectedEOF
		return ""
	}
	text := string(d.take(int(n)))
	d.take(1) // a zero byte
	return text
}

func (d *decoder) signature() string {
	text := string(d.take(int(d.byte())))
	d.take(1)
	return text
}
