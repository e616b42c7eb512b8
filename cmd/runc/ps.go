// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

func ps(f *flags) func(*app, []string) error {
	var format string
	f.StringVar(&format, "format, f", "table", "select one of: table or json")
	return func(a *app, args []string) error {
		c, err := a.container(args[0])
		if err != nil {
			return err
		}
		pids, err := c.Pids()
		if err != nil {
			return err
		}
		switch format {
		case "json":
			return json.NewEncoder(a.stdout).Encode(pids)
		case "table":
			return a.processTable(pids, args[1:])
		}
		return errors.New("invalid format option")
	}
}

// processTable is what ps(1) says of the processes.
func (a *app) processTable(pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return filterProcesses(a.stdout, string(out), pids)
}

// filterProcesses prints the title and the lines of some processes.
func filterProcesses(w io.Writer, table string, pids []int) error {
	title, rest, _ := strings.Cut(table, "\n")
	column := slices.Index(strings.Fields(title), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Fprintln(w, title)
	for line := range strings.Lines(rest) {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, pid) {
			fmt.Fprintln(w, strings.TrimSuffix(line, "\n"))
		}
	}
	return nil
}
