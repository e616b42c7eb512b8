// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// A state is where a process is in its life. The names are those that users
// see in errors.
type state string

const (
	created  state = "created"
	starting state = "starting"
	running  state = "running"
	pausing  state = "pausing"
	paused   state = "paused"
	stopped  state = "stopped"
	deleting state = "deleting"
	deleted  state = "deleted"
)

// allowed is the life of a process: an operation is legal in these states. The
// states in brackets last as long as a call of the driver.
//
//	created ─(starting)─▶ running ─(pausing)─▶ paused
//	   │                   │   ▲                 │ │
//	   │                   │   └─────────────────┘ │
//	   │                   ▼                       │
//	   │                stopped ◀──────────────────┘
//	   ▼                   │
//	(deleting) ◀───────────┘
//	   │
//	   ▼
//	deleted
var allowed = map[string][]state{
	"start":      {created},
	"exec":       {created, running},
	"pause":      {running},
	"resume":     {paused},
	"update":     {created, running, paused},
	"checkpoint": {running, paused},
	"kill":       {created, starting, running, pausing, paused},
	"delete":     {created, stopped},
}

// phrase words the refusals that clients and test suites know by heart.
var phrase = map[string]string{
	"exec":           "cannot exec in a %s state",
	"pause":          "cannot pause a %s container",
	"pause created":  "cannot pause task in %s state",
	"resume":         "cannot resume a %s container",
	"resume created": "cannot resume task in %s state",
	"resume running": "cannot resume a %s process",
}

// check reports why op may not be applied in state s. The error has no kind,
// which the wire calls Unknown, unless the process is gone.
func (s state) check(op string) error {
	if slices.Contains(allowed[op], s) {
		return nil
	}
	if op == "kill" && s == stopped {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	text := cmp.Or(phrase[op+" "+string(s)], phrase[op], "cannot "+op+" a %s process")
	if s == deleting || s == deleted {
		return fmt.Errorf(text+": %w", s, errdefs.ErrNotFound)
	}
	return fmt.Errorf(text, s)
}

// wire is the number of s in containerd.v1.types.Status.
func (s state) wire() int32 {
	switch s {
	case created, starting:
		return 1
	case running:
		return 2
	case paused:
		return 4
	case pausing:
		return 5
	}
	return 3
}
