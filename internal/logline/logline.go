// SPDX-License-Identifier: Apache-2.0

// Package logline writes log records in the two forms that containerd's have,
// so that what reads the logs of one reads those of the other: a line of
// key=value pairs, or a JSON object.
package logline

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Levels beyond those of slog.
const (
	Trace = slog.LevelDebug - 4
	Fatal = slog.LevelError + 4
	Panic = slog.LevelError + 8
)

var levels = []struct {
	name  string
	level slog.Level
}{
	{"trace", Trace}, {"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"warning", slog.LevelWarn},
	{"error", slog.LevelError}, {"fatal", Fatal}, {"panic", Panic},
}

// ParseLevel gives the level of a name, in any case.
func ParseLevel(name string) (slog.Level, error) {
	for _, l := range levels {
		if strings.EqualFold(l.name, name) {
			return l.level, nil
		}
	}
	return 0, fmt.Errorf("not a valid log level: %q", name)
}

// levelName is how a record spells its level.
func levelName(level slog.Level) string {
	name := "trace"
	for _, l := range levels {
		if l.level <= level {
			name = l.name // of two names of one level the last is written
		}
	}
	return name
}

// timestamp keeps nine digits so that lines sort.
const timestamp = "2006-01-02T15:04:05.000000000Z07:00"

// Handler is a slog.Handler. Use New.
type Handler struct {
	level slog.Leveler
	json  bool
	out   *output
	attrs []slog.Attr // with their group as a prefix
	group string
}

// output is shared by the handlers that With makes of one.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

// New writes to w what is of level or above. Format is "text" (also empty) or
// "json".
func New(w io.Writer, level slog.Leveler, format string) (*Handler, error) {
	if format != "" && format != "text" && format != "json" {
		return nil, fmt.Errorf("log format %q is neither text nor json", format)
	}
	return &Handler{level: level, json: format == "json", out: &output{w: w}}, nil
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		c.attrs = appendAttr(c.attrs, h.group, a)
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}

func appendAttr(all []slog.Attr, prefix string, a slog.Attr) []slog.Attr {
	a.Value = a.Value.Resolve()
	if a.Value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, g := range a.Value.Group() {
			all = appendAttr(all, prefix, g)
		}
		return all
	}
	if a.Equal(slog.Attr{}) {
		return all
	}
	a.Key = prefix + a.Key
	return append(all, a)
}

// Handle implements slog.Handler. A field that takes the name of one of the
// record's own is written as "fields.<name>".
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	fields := slices.Clone(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fields = appendAttr(fields, h.group, a)
		return true
	})
	for i, f := range fields {
		if f.Key == "time" || f.Key == "level" || f.Key == "msg" {
			fields[i].Key = "fields." + f.Key
		}
	}
	slices.SortStableFunc(fields, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	line := h.text(r, fields)
	if h.json {
		line = h.object(r, fields)
	}
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(line)
	return err
}

func (h *Handler) text(r slog.Record, fields []slog.Attr) []byte {
	b := make([]byte, 0, 256)
	b = append(b, "time="...)
	b = appendText(b, r.Time.Format(timestamp))
	b = append(b, " level="...)
	b = append(b, levelName(r.Level)...)
	b = append(b, " msg="...)
	b = appendText(b, r.Message)
	for _, f := range fields {
		b = append(b, ' ')
		b = append(b, f.Key...)
		b = append(b, '=')
		b = appendText(b, render(f.Value))
	}
	return append(b, '\n')
}

func appendText(b []byte, s string) []byte {
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._/@^+", r)
	}) {
		return strconv.AppendQuote(b, s)
	}
	return append(b, s...)
}

func render(v slog.Value) string {
	if t, ok := v.Any().(time.Time); ok {
		return t.Format(timestamp)
	}
	return v.String()
}

func (h *Handler) object(r slog.Record, fields []slog.Attr) []byte {
	m := make(map[string]any, len(fields)+3)
	for _, f := range fields {
		m[f.Key] = jsonValue(f.Value)
	}
	m["time"], m["level"], m["msg"] = r.Time.Format(timestamp), levelName(r.Level), r.Message
	b, err := json.Marshal(m)
	if err != nil { // a value without a JSON form
		for _, f := range fields {
			m[f.Key] = render(f.Value)
		}
		b, _ = json.Marshal(m)
	}
	return append(b, '\n')
}

func jsonValue(v slog.Value) any {
	switch x := v.Any().(type) {
	case error:
		return x.Error()
	case time.Duration:
		return x.String()
	default:
		return x
	}
}
