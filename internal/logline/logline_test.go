// SPDX-License-Identifier: Apache-2.0

package logline

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// record logs one line and returns it without its time.
func record(t *testing.T, format string, log func(*slog.Logger)) string {
	t.Helper()
	var b strings.Builder
	h, err := New(&b, Trace, format)
	if err != nil {
		t.Fatal(err)
	}
	log(slog.New(h))
	return b.String()
}

func TestTextIsQuotedWhereNeeded(t *testing.T) {
	for _, c := range []struct {
		want string
		log  func(*slog.Logger)
	}{
		{` level=info msg="starting containerd" revision= version=2.3.4+x`, func(l *slog.Logger) { l.Info("starting containerd", "version", "2.3.4+x", "revision", "") }},
		{` level=warning msg=serving... address="127.0.0.1:80" n=3`, func(l *slog.Logger) { l.Warn("serving...", "address", "127.0.0.1:80", "n", 3) }},
		{` level=error msg="a\nb" error="no \"x\""`, func(l *slog.Logger) { l.Error("a\nb", "error", errors.New(`no "x"`)) }},
		{` level=trace msg=x g.a=1s with=w`, func(l *slog.Logger) {
			l.With("with", "w").WithGroup("g").Log(t.Context(), Trace, "x", "a", time.Second)
		}},
		{` level=panic msg=x fields.msg=y`, func(l *slog.Logger) { l.Log(t.Context(), Panic, "x", "msg", "y") }},
	} {
		stamp, got, _ := strings.Cut(record(t, "", c.log), `Z"`)
		if stamp == "" {
			stamp, got, _ = strings.Cut(record(t, "", c.log), ` `)
		}
		if i := strings.Index(got, " level="); i < 0 || got[i:] != c.want+"\n" {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if !strings.HasPrefix(stamp, `time="20`) {
			t.Errorf("time %q", stamp)
		}
	}
}

func TestJSONHoldsTheSame(t *testing.T) {
	line := record(t, "json", func(l *slog.Logger) { l.Warn("m", "error", errors.New("e"), "n", 3, "d", time.Second, "f", func() {}) })
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	if m["level"] != "warning" || m["msg"] != "m" || m["error"] != "e" || m["d"] != "1s" {
		t.Errorf("got %s", line)
	}
}

func TestLevels(t *testing.T) {
	for name, want := range map[string]slog.Level{"trace": Trace, "WARN": slog.LevelWarn, "warning": slog.LevelWarn, "panic": Panic} {
		if got, err := ParseLevel(name); err != nil || got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("an unknown level is accepted")
	}
	if _, err := New(nil, Trace, "xml"); err == nil {
		t.Error("an unknown format is accepted")
	}
}
