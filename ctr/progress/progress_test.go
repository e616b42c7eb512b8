// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"slipway/client"
)

const layer = "layer-sha256:c1549e6464908aab0b2b1f0b5b9b8b7b"

func steps(d *Display) {
	d.Update(client.Progress{Event: "resolving", Name: "image"})
	d.Update(client.Progress{Event: "downloading", Name: layer, Parents: []string{"image"}, Progress: 0, Total: 4096})
	d.Update(client.Progress{Event: "downloading", Name: layer, Progress: 1024, Total: 4096})
	d.Update(client.Progress{Event: "complete", Name: layer, Progress: 4096, Total: 4096})
}

func TestModes(t *testing.T) {
	for _, c := range []struct {
		mode Mode
		err  error
		want []string // in this order
		not  string
	}{
		{Auto, nil, []string{"image", "resolving", "└──layer (c1549e646490)", "complete", "++++|", "4.0 KiB/4.0 KiB", "elapsed:"}, "\x1b"},
		{Auto, errors.New("broken"), nil, "image"},
		{Plain, nil, []string{"image: resolving\n", "layer (c1549e646490): downloading 0.0 B/4.0 KiB\n", "layer (c1549e646490): complete", "elapsed:"}, "1.0 KiB"},
		{JSON, errors.New("broken"), []string{`"resolving"`, `"progress":1024`, `"failed"`, `"error":"broken"`}, "elapsed"},
		{Terminal, nil, []string{"layer (c1549e646490)", "complete"}, "left"},
	} {
		var out strings.Builder
		d := New(&out, "Pulling", c.mode)
		steps(d)
		d.End(c.err)
		rest := out.String()
		for _, want := range c.want {
			at := strings.Index(rest, want)
			if at < 0 {
				t.Errorf("mode %q: no %q in %q", c.mode, want, out.String())
				break
			}
			rest = rest[at:]
		}
		if strings.Contains(out.String(), c.not) {
			t.Errorf("mode %q: %q in %q", c.mode, c.not, out.String())
		}
	}
}

func TestJSONIsADocumentALine(t *testing.T) {
	var out strings.Builder
	d := New(&out, "", JSON)
	steps(d)
	d.End(nil)
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var s step
		if err := json.Unmarshal([]byte(line), &s); err != nil || s.Event == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestPace(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		job  job
		want string
	}{
		{job{event: "downloading", progress: 3 << 20, total: 9 << 20, from: 1 << 20, since: now.Add(-2 * time.Second)}, "1.0 MiB/s\t6s left\t"},
		{job{event: "complete", progress: 9, total: 9, since: now.Add(-time.Second)}, ""},
		{job{event: "downloading", since: now}, ""},
		{job{event: "extracting", progress: 1024, since: now.Add(-time.Second)}, "1.0 KiB/s\t"},
	} {
		if got := c.job.pace(now); got != c.want {
			t.Errorf("%+v: %q, want %q", c.job, got, c.want)
		}
	}
}

func TestAStepWithoutASizeIsDrawn(t *testing.T) {
	var out strings.Builder
	d := New(&out, "", Auto)
	d.Update(client.Progress{Event: "downloading", Name: layer})
	d.End(nil)
	if !strings.Contains(out.String(), "0.0 B/0.0 B") {
		t.Errorf("drawn: %q", out.String())
	}
}
