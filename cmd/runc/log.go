// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A handler writes the log as runc does, whose readers (containerd, Docker,
// Podman) look for level and msg: as JSON, or as key=value.
type handler struct {
	mu    *sync.Mutex // guards to
	to    io.Writer
	json  bool
	level slog.Level
	attrs []slog.Attr
}

func newHandler(to io.Writer, format string, debug bool) *handler {
	h := &handler{mu: &sync.Mutex{}, to: to, json: format == "json", level: slog.LevelInfo}
	if debug {
		h.level = slog.LevelDebug
	}
	return h
}

// Enabled says whether a level is logged.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// WithAttrs adds fields.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.attrs = append(out.attrs[:len(out.attrs):len(out.attrs)], attrs...)
	return &out
}

// WithGroup changes nothing: the fields are flat.
func (h *handler) WithGroup(string) slog.Handler { return h }

// Handle writes one record.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	level := strings.ToLower(r.Level.String())
	if level == "warn" {
		level = "warning"
	}
	fields := append([]slog.Attr{}, h.attrs...)
	r.Attrs(func(a slog.Attr) bool { fields = append(fields, a); return true })
	at := r.Time.Format(time.RFC3339)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.json {
		line := map[string]string{"level": level, "msg": r.Message, "time": at}
		for _, a := range fields {
			line[a.Key] = a.Value.String()
		}
		return json.NewEncoder(h.to).Encode(line)
	}
	text := fmt.Sprintf("time=%q level=%s msg=%s", at, level, quote(r.Message))
	for _, a := range fields {
		text += " " + a.Key + "=" + quote(a.Value.String())
	}
	_, err := io.WriteString(h.to, text+"\n")
	return err
}

// quote leaves a plain word as it is.
func quote(s string) string {
	plain := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._/@^+", r))
	}
	if s != "" && strings.IndexFunc(s, plain) < 0 {
		return s
	}
	return strconv.Quote(s)
}
