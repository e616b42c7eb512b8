// SPDX-License-Identifier: Apache-2.0

// Package protocol is what the runtime and the init that it starts in a
// container say to each other: packets of one type, with descriptors, over one
// socket, in an order that both ends check.
//
//	runtime                                init
//	   │── config ──────────────────────────▶│  what to become, all descriptors
//	   │◀─────────────────────────── mount ──│  a mount that the init cannot make, any number of times
//	   │── tree ────────────────────────────▶│  what to mount
//	   │◀─────────────────────────── hooks ──│  namespaces are there, before the root changes
//	   │── resume ──────────────────────────▶│  (hooks of the host have run)
//	   │◀───────────────────────── console ──│  the master of the terminal, if one is asked for
//	   │◀────────────────────────── notify ──│  the listener of the seccomp filter, if it has one
//	   │◀─────────────────────────── ready ──│  waits for start (the init), or executes (exec)
//
// In place of any packet of its own the init may say failed, which is the last.
package protocol

import (
	"fmt"
	"io"
	"os"

	"slipway/internal/plainjson"
	"slipway/linux"
)

// Kind is what a packet is about.
type Kind string

// The kinds of packets.
const (
	Config  Kind = "config"
	Mount   Kind = "mount"
	Tree    Kind = "tree"
	Hooks   Kind = "hooks"
	Resume  Kind = "resume"
	Console Kind = "console"
	Notify  Kind = "notify"
	Ready   Kind = "ready"
	Failed  Kind = "failed"
)

// Message is a packet.
type Message struct {
	Kind  Kind     `json:"kind"`
	Names []string `json:"names,omitempty"` // of the descriptors of config
	Index int      `json:"index,omitempty"` // of mount: which one of the spec
	Error string   `json:"error,omitempty"` // of failed
	Pid   int      `json:"pid,omitempty"`
}

// state is how far a conversation is.
type state int

const (
	fresh state = iota
	configured
	mounting
	hooking
	resumed
	terminal
	notified
	ended
)

// order lists, for each state, the packets that may come and where they lead.
// Down says which way a packet goes.
var order = map[state]map[Kind]state{
	fresh:      {Config: configured},
	configured: {Mount: mounting, Hooks: hooking, Console: terminal, Notify: notified, Ready: ended, Failed: ended},
	mounting:   {Tree: configured},
	hooking:    {Resume: resumed},
	resumed:    {Console: terminal, Notify: notified, Ready: ended, Failed: ended},
	terminal:   {Notify: notified, Ready: ended, Failed: ended},
	notified:   {Ready: ended, Failed: ended},
	ended:      {Failed: ended},
}

// down are the kinds that the runtime sends; the init sends the others.
var down = map[Kind]bool{Config: true, Tree: true, Resume: true}

// files is how many descriptors come with a kind: config has any number, tree
// one or, from a kernel that cannot make it, none.
var files = map[Kind]int{Console: 1, Notify: 1}

// maxPacket is the size of a buffer that takes every packet; maxError keeps
// texts, which JSON can make six times as long, below it.
const (
	maxPacket = 32 << 10
	maxError  = 4 << 10
)

// Conn is one end of a conversation.
type Conn struct {
	socket *os.File
	init   bool
	at     state
}

// NewConn is the runtime's end of a conversation over socket.
func NewConn(socket *os.File) *Conn { return &Conn{socket: socket} }

// NewInitConn is the init's.
func NewInitConn(socket *os.File) *Conn { return &Conn{socket: socket, init: true} }

// Close ends the conversation.
func (c *Conn) Close() error { return c.socket.Close() }

// Above moves this end to a descriptor of at least min. It is not done unless
// it must be: Linux waits, for milliseconds, before it lets a process with
// threads have a descriptor of 64 or more for the first time.
func (c *Conn) Above(min int) error {
	high, err := linux.DupAbove(c.socket, min)
	if err != nil {
		return err
	}
	c.socket.Close()
	c.socket = high
	return nil
}

func (c *Conn) step(m Message, sends bool, n int) error {
	next, ok := order[c.at][m.Kind]
	if !ok || down[m.Kind] == (c.init == sends) {
		return fmt.Errorf("packet %q out of order", m.Kind)
	}
	want := files[m.Kind]
	switch m.Kind {
	case Config:
		want = len(m.Names)
	case Tree:
		want = min(n, 1)
	}
	if n != want {
		return fmt.Errorf("packet %q with %d files", m.Kind, n)
	}
	c.at = next
	return nil
}

// Send sends m with files.
func (c *Conn) Send(m Message, files ...*os.File) error {
	if err := c.step(m, true, len(files)); err != nil {
		return err
	}
	if len(m.Error) > maxError {
		m.Error = m.Error[:maxError] + "…"
	}
	data, err := plainjson.Marshal(m)
	if err != nil {
		return err
	}
	return linux.Send(c.socket, data, files...)
}

// Receive waits for the next packet. The end of the conversation is io.EOF.
func (c *Conn) Receive() (m Message, files []*os.File, err error) {
	buf := make([]byte, maxPacket)
	n, files, err := linux.Receive(c.socket, buf)
	if err != nil {
		return m, nil, err
	}
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	if n == 0 {
		return m, files, io.EOF
	}
	if err := plainjson.Unmarshal(buf[:n], &m); err != nil {
		return m, files, fmt.Errorf("packet: %w", err)
	}
	return m, files, c.step(m, false, len(files))
}
