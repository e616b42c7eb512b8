// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"slipway/runtime"
)

func state(*flags) func(*app, []string) error {
	return func(a *app, args []string) error {
		c, err := a.container(args[0])
		if err != nil {
			return err
		}
		s, err := c.State()
		if err != nil {
			return err
		}
		s.Owner = "" // of a listing only
		text, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(text)
		return err
	}
}

func list(f *flags) func(*app, []string) error {
	var format string
	var quiet bool
	f.StringVar(&format, "format, f", "table", "select one of: table or json")
	f.BoolVar(&quiet, "quiet, q", false, "display only container IDs")
	return func(a *app, _ []string) error {
		states, err := a.states()
		if err != nil {
			return err
		}
		switch {
		case quiet:
			for _, s := range states {
				fmt.Fprintln(a.stdout, s.ID)
			}
			return nil
		case format == "json":
			return json.NewEncoder(a.stdout).Encode(states)
		case format == "table":
			return a.table(states)
		}
		return errors.New("invalid format option")
	}
}

// states are the containers that can be read. The others are only named: a
// listing is for finding out what is wrong. No container at all is null in
// JSON, as with runc.
func (a *app) states() ([]runtime.State, error) {
	dir, err := os.Open(a.root)
	if err != nil && a.rootGiven {
		return nil, err
	}
	dir.Close()
	containers, err := runtime.List(a.root)
	if err != nil && len(containers) == 0 {
		return nil, err
	}
	if err != nil {
		fmt.Fprintln(a.stderr, err)
	}
	var states []runtime.State
	for _, c := range containers {
		s, err := c.State()
		if err != nil {
			fmt.Fprintf(a.stderr, "state for %s: %v\n", c.ID(), err)
			continue
		}
		states = append(states, s)
	}
	return states, nil
}

func (a *app) table(states []runtime.State) error {
	w := tabwriter.NewWriter(a.stdout, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return w.Flush()
}
