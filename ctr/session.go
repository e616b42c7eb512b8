// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/client"
	"slipway/internal/logline"
)

// A session is one command while it runs.
type session struct {
	ctx     context.Context // ends with an interrupt, until release
	release func()          // gives signals back to their default, or to a container
	in      *os.File
	out     io.Writer
	err     io.Writer
	globals globals

	group   groupFlags
	client  *client.Client
	cancel  context.CancelFunc
	pending sync.WaitGroup // of later
	undo    []func(context.Context) error
	warning chan string // what the daemon says is about to go
}

// groupFlags are the flags of groups that have some.
type groupFlags struct {
	snapshotter string
	debugSocket string
	shim        shimTarget
}

// globals are the flags before the name of a command.
type globals struct {
	debug          bool
	address        string
	namespace      string
	timeout        time.Duration
	connectTimeout time.Duration
}

func (g *globals) declare(f flagSet) {
	f.BoolVar(&g.debug, "debug", false, "Enable debug output in logs")
	f.StringVarP(&g.address, "address", "a", env("CONTAINERD_ADDRESS", "/run/containerd/containerd.sock"), "Address of the daemon's socket (CONTAINERD_ADDRESS)")
	f.DurationVar(&g.timeout, "timeout", 0, "Most time that the command may take, 0 for no limit")
	f.DurationVar(&g.connectTimeout, "connect-timeout", 0, "Most time to connect to the daemon")
	f.StringVarP(&g.namespace, "namespace", "n", env("CONTAINERD_NAMESPACE", "default"), "Namespace to act in (CONTAINERD_NAMESPACE)")
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// dial connects to the daemon, once.
func (s *session) dial() (*client.Client, error) {
	if s.client != nil {
		return s.client, nil
	}
	if s.globals.timeout > 0 {
		s.ctx, s.cancel = context.WithTimeout(s.ctx, s.globals.timeout)
	}
	c, err := client.Dial(s.ctx, s.globals.address, client.Options{Namespace: s.globals.namespace, DialTimeout: s.globals.connectTimeout})
	if err != nil {
		return nil, err
	}
	s.client = c
	if v := os.Getenv("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS"); v != "true" && v != "1" {
		s.warning = make(chan string, 1)
		go func() { s.warning <- s.deprecations(c) }()
	}
	return c, nil
}

// deprecations are asked for beside the work of the command and printed when
// it is done.
func (s *session) deprecations(c *client.Client) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 10*time.Second)
	defer cancel()
	resp, err := c.Introspection().Server(ctx, &emptypb.Empty{})
	if err != nil {
		return "" // it is said by the command itself
	}
	var b strings.Builder
	for _, w := range resp.Deprecations {
		logTo(&b, slog.LevelInfo).Warn("DEPRECATION: " + w.Message)
	}
	return b.String()
}

// later does what nothing waits for but the end of the session.
func (s *session) later(act func() error) {
	s.pending.Go(func() {
		if err := act(); err != nil {
			s.log().Warn("clean up", "error", err)
		}
	})
}

// atEnd does what undoes a step of the command, when that is over.
func (s *session) atEnd(undo func(context.Context) error) { s.undo = append(s.undo, undo) }

func (s *session) close() {
	s.pending.Wait()
	for _, undo := range s.undo {
		ctx, cancel := s.cleanup()
		if err := undo(ctx); err != nil {
			s.log().Warn("clean up", "error", err)
		}
		cancel()
	}
	if s.warning != nil {
		io.WriteString(s.err, <-s.warning)
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.cancel != nil {
		s.cancel()
	}
	s.release()
}

// log writes what does not end the command.
func (s *session) log() *slog.Logger {
	level := slog.LevelInfo
	if s.globals.debug {
		level = slog.LevelDebug
	}
	return logTo(s.err, level)
}

func logTo(w io.Writer, level slog.Level) *slog.Logger {
	h, err := logline.New(w, level, "")
	if err != nil {
		panic(err) // there is no such format
	}
	return slog.New(h)
}

// server asks the daemon for its identity.
func server(ctx context.Context, c *client.Client) (*introspectionapi.ServerResponse, error) {
	return c.Introspection().Server(ctx, &emptypb.Empty{})
}

// table returns a writer of columns that are at least min wide and pad
// apart. Flush it.
func (s *session) table(min, pad int, header string) *tabwriter.Writer {
	w := tabwriter.NewWriter(s.out, min, 8, pad, ' ', 0)
	fmt.Fprintln(w, header)
	return w
}

// json prints v as an indented document.
func (s *session) json(v any) error {
	data, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, string(data))
	return err
}

// A complaint is what is logged of an error in place of what each has.
type complaint struct {
	text string
	error
}

// each does act for every argument, goes on after failures, and returns the
// first.
func (s *session) each(args []string, text string, act func(string) error) error {
	var first error
	for _, a := range args {
		err := act(a)
		if err == nil {
			continue
		}
		c, own := err.(complaint)
		if !own {
			c = complaint{fmt.Sprintf(text, a), err}
		}
		first = cmp.Or(first, c.error)
		s.log().Error(c.text, "error", c.error)
	}
	return first
}
