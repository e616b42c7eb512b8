// SPDX-License-Identifier: Apache-2.0

// Package progress shows the steps of a transfer.
//
// A job is one blob, or the image itself, that steps are told of; jobs make a
// tree. On a terminal the tree is drawn over and over in place, with the rate
// and the time left of each job.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/term"

	"slipway/client"
)

// A Mode is how steps are shown.
type Mode string

// The modes. Auto is Terminal on one, and elsewhere the tree as it is in the
// end. Plain is a line for each change of what a job is at, JSON a document
// for each step.
const (
	Auto     Mode = ""
	Terminal Mode = "tty"
	Plain    Mode = "plain"
	JSON     Mode = "json"
)

// ParseMode reads the name of a mode.
func ParseMode(name string) (Mode, error) {
	switch m := Mode(name); m {
	case Auto, Terminal, Plain, JSON:
		return m, nil
	case "auto":
		return Auto, nil
	}
	return "", fmt.Errorf("progress %q: not one of auto, tty, plain, json: %w", name, errdefs.ErrInvalidArgument)
}

// A Display shows one transfer. nil shows nothing.
type Display struct {
	out   io.Writer
	title string
	mode  Mode
	start time.Time
	stop  chan struct{}
	drawn sync.WaitGroup

	mu     sync.Mutex // guards what follows
	jobs   []*job
	byName map[string]*job
	lines  int // on the screen
}

const redraw = 100 * time.Millisecond

// New starts to show a transfer. End it.
func New(out io.Writer, title string, mode Mode) *Display {
	d := &Display{out: out, title: title, mode: mode, start: time.Now(), stop: make(chan struct{}), byName: make(map[string]*job)}
	if f, ok := out.(*os.File); mode == Auto && ok && term.IsTerminal(int(f.Fd())) {
		d.mode = Terminal
	}
	if d.mode == Terminal {
		d.drawn.Go(d.refresh)
	}
	return d
}

func (d *Display) refresh() {
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
			d.draw()
		}
	}
}

// Update takes a step. Steps without a name of their own are about the whole.
func (d *Display) Update(u client.Progress) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mode == JSON {
		d.document(u)
	}
	if u.Name == "" {
		d.title = u.Event
		d.line(u.Event)
		return
	}
	j := d.job(u)
	if changed := j.step(u); changed {
		d.line(fmt.Sprintf("%s: %s%s", j.label(), j.event, j.size()))
	}
}

// job finds the job of a step.
func (d *Display) job(u client.Progress) *job {
	j := d.byName[u.Name]
	if j != nil {
		return j
	}
	j = &job{name: u.Name}
	if len(u.Parents) > 0 {
		if parent := d.byName[u.Parents[0]]; parent != nil {
			j.depth = parent.depth + 1
		}
	}
	d.byName[u.Name] = j
	d.jobs = append(d.jobs, j)
	return j
}

// line is for Plain only.
func (d *Display) line(text string) {
	if d.mode == Plain {
		fmt.Fprintln(d.out, text)
	}
}

// step is a step as a document. The end is one of event done or failed.
type step struct {
	Event    string   `json:"event"`
	Name     string   `json:"name,omitempty"`
	Parents  []string `json:"parents,omitempty"`
	Progress int64    `json:"progress,omitempty"`
	Total    int64    `json:"total,omitempty"`
	Digest   string   `json:"digest,omitempty"`
	Error    string   `json:"error,omitempty"`
	Seconds  float64  `json:"seconds,omitempty"`
}

func (d *Display) document(u client.Progress) {
	s := step{Event: u.Event, Name: u.Name, Parents: u.Parents, Progress: u.Progress, Total: u.Total}
	if u.Desc != nil {
		s.Digest = u.Desc.Digest.String()
		if s.Total == 0 {
			s.Total = u.Desc.Size
		}
	}
	json.NewEncoder(d.out).Encode(s)
}

// End shows the last state, unless nobody has seen the others and the transfer
// failed.
func (d *Display) End(err error) {
	if d == nil {
		return
	}
	close(d.stop)
	d.drawn.Wait()
	last := step{Event: "done", Seconds: time.Since(d.start).Seconds()}
	if err != nil {
		last.Event, last.Error = "failed", err.Error()
	}
	switch {
	case d.mode == JSON:
		json.NewEncoder(d.out).Encode(last)
	case d.mode == Plain && err == nil:
		d.line(d.summary())
	case d.mode == Terminal, d.mode == Auto && err == nil:
		d.draw()
	}
}

func (d *Display) summary() string {
	var done int64
	for _, j := range d.jobs {
		done += j.progress
	}
	elapsed := time.Since(d.start)
	rate := int64(float64(done) / max(elapsed.Seconds(), 0.001))
	return fmt.Sprintf("%s\telapsed: %.1f s\ttotal: %s\t(%s/s)\t", d.title, elapsed.Seconds(), Bytes(done), Bytes(rate))
}

func (d *Display) draw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 1, 8, 1, ' ', 0)
	for _, j := range d.jobs {
		j.draw(w, d.mode == Terminal)
	}
	w.Flush()
	fmt.Fprintln(&text, d.summary())
	if d.lines > 0 {
		fmt.Fprintf(d.out, "\x1b[%dA\x1b[J", d.lines) // up, and clear
	}
	io.WriteString(d.out, text.String())
	d.lines = strings.Count(text.String(), "\n")
}
