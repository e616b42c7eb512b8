// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"slipway/runtime"
)

// An event is a line of `runc events`.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func events(f *flags) func(*app, []string) error {
	var interval time.Duration
	var stats bool
	f.names("interval", func(name string) {
		f.DurationVar(&interval, name, 5*time.Second, "set the stats collection interval")
	})
	f.BoolVar(&stats, "stats", false, "display the container's stats then exit")
	return func(a *app, args []string) error {
		c, err := a.container(args[0])
		if err != nil {
			return err
		}
		if interval <= 0 {
			return errors.New("duration interval must be greater than 0")
		}
		s, err := c.State()
		if err != nil {
			return err
		}
		if s.Status == runtime.Stopped {
			return fmt.Errorf("container with id %s is not running", c.ID())
		}
		if stats {
			return a.printStats(c)
		}
		return a.follow(c, interval)
	}
}

func (a *app) printStats(c *runtime.Container) error {
	s, err := c.Stats()
	if err != nil {
		return err
	}
	return json.NewEncoder(a.stdout).Encode(event{"stats", c.ID(), s})
}

// follow prints statistics and the kernel's want of memory until the container
// is gone.
func (a *app) follow(c *runtime.Container, interval time.Duration) error {
	ctx, cancel := context.WithCancel(background())
	defer cancel()
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	oom, err := group.OOMEvents(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-oom:
			if !ok {
				return nil
			}
			if err := json.NewEncoder(a.stdout).Encode(event{Type: "oom", ID: c.ID()}); err != nil {
				return err
			}
		case <-tick.C:
			if err := a.printStats(c); err != nil {
				a.log.Error(err.Error())
			}
		}
	}
}
