// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A logger writes what does not end a command, in lines that the tools of
// containerd's users know: time, level, message, then pairs, each quoted unless
// it is a plain word.
type logger struct {
	w     io.Writer
	debug bool
}

func (l logger) Error(msg string, pairs ...any) { l.line("error", msg, pairs) }
func (l logger) Warn(msg string, pairs ...any)  { l.line("warning", msg, pairs) }
func (l logger) Info(msg string, pairs ...any)  { l.line("info", msg, pairs) }

func (l logger) Debug(msg string, pairs ...any) {
	if l.debug {
		l.line("debug", msg, pairs)
	}
}

func (l logger) line(level, msg string, pairs []any) {
	var b strings.Builder
	fmt.Fprintf(&b, "time=%q level=%s msg=%s", time.Now().Format(time.RFC3339), level, quoted(msg))
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, " %v=%s", pairs[i], quoted(fmt.Sprint(pairs[i+1])))
	}
	b.WriteByte('\n')
	io.WriteString(l.w, b.String())
}

func quoted(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._/@^+", r)
	}
	if strings.TrimFunc(text, plain) == "" {
		return text
	}
	return fmt.Sprintf("%q", text)
}
