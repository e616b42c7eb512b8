// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"slipway/client"
)

// job is one thing that is transferred.
type job struct {
	name, event     string
	depth           int
	progress, total int64

	since time.Time // of the event
	from  int64     // progress then
}

// step takes a step, and says whether the job is at something else now.
func (j *job) step(u client.Progress) (changed bool) {
	if changed = u.Event != j.event; changed {
		j.since, j.from = time.Now(), u.Progress
	}
	j.event, j.progress = u.Event, u.Progress
	if u.Total > 0 {
		j.total = u.Total
	} else if u.Desc != nil {
		j.total = u.Desc.Size
	}
	return changed
}

func (j *job) finished() bool {
	return j.event == "complete" || j.event == "extracted" || j.event == "already exists" || j.event == "done"
}

// label names a job: layer (c1549e646490).
func (j *job) label() string {
	kind, hex, ok := strings.Cut(j.name, "-sha256:")
	if !ok { // the image itself
		return j.name
	}
	return fmt.Sprintf("%s (%.12s)", kind, hex)
}

func (j *job) size() string {
	if j.total == 0 {
		return ""
	}
	return fmt.Sprintf(" %s/%s", Bytes(min(j.progress, j.total)), Bytes(j.total))
}

// draw prints a job: layer (c1549e646490)  extracting |++++----| 3.4 MiB/6.0 MiB
func (j *job) draw(w io.Writer, pace bool) {
	const width = 38
	if !strings.Contains(j.name, "-sha256:") {
		fmt.Fprintf(w, "%s\t%s\t\n", j.name, j.event)
		return
	}
	indent := strings.Repeat("   ", j.depth)
	if j.depth > 0 {
		indent = indent[3:] + "└──"
	}
	filled := 0
	switch {
	case j.finished():
		filled = width
	case j.total > 0:
		filled = int(float64(min(j.progress, j.total)) / float64(j.total) * width)
	}
	fmt.Fprintf(w, "%s%s\t%s\t|%s%s|\t", indent, j.label(), j.event, strings.Repeat("+", filled), strings.Repeat("-", width-filled))
	fmt.Fprintf(w, "%s/%s\t", Bytes(min(j.progress, j.total)), Bytes(j.total))
	if pace {
		fmt.Fprint(w, j.pace(time.Now()))
	}
	fmt.Fprintln(w)
}

// pace is the rate of a job under way and the time that is left of it.
func (j *job) pace(now time.Time) string {
	done, took := j.progress-j.from, now.Sub(j.since).Seconds()
	if j.finished() || done <= 0 || took <= 0 {
		return ""
	}
	rate := float64(done) / took
	text := Bytes(int64(rate)) + "/s\t"
	if left := j.total - j.progress; left > 0 {
		text += time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second).String() + " left\t"
	}
	return text
}
