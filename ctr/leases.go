// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"fmt"
	"strings"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
)

func leaseCommands() []command {
	return []command{
		{use: "list [FILTER...]", aliases: []string{"ls"}, short: "List leases", declare: listLeases},
		{use: "create [KEY=VALUE...]", short: "Create a lease", declare: createLease},
		{use: "delete ID...", aliases: []string{"del", "remove", "rm"}, short: "Delete leases", declare: deleteLeases},
	}
}

func listLeases(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the ids")
	return func(s *session, filters []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Leases().List(s.ctx, &leasesapi.ListRequest{Filters: filters})
		if err != nil {
			return fmt.Errorf("failed to list leases: %w", err)
		}
		if *quiet {
			for _, l := range resp.Leases {
				fmt.Fprintln(s.out, l.ID)
			}
			return nil
		}
		w := s.table(1, 1, "ID\tCREATED AT\tLABELS\t")
		for _, l := range resp.Leases {
			text := strings.Join(pairs(l.Labels), ",")
			if text == "" {
				text = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t\n", l.ID, l.CreatedAt.AsTime().Local().Format(time.RFC3339), text)
		}
		return w.Flush()
	}
}

func createLease(f flagSet) action {
	id := f.String("id", "", "Name of the lease, made up if empty")
	expires := f.DurationP("expires", "x", 24*time.Hour, "How long it lasts, 0 for ever")
	return func(s *session, args []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		created, err := c.NewLease(s.ctx, *id, *expires, labels(args))
		if err != nil {
			return err
		}
		fmt.Fprintln(s.out, created)
		return nil
	}
}

func deleteLeases(f flagSet) action {
	sync := f.Bool("sync", false, "Wait until what nothing else keeps is gone")
	return func(s *session, args []string) error {
		if len(args) == 0 {
			return errUsage
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		for i, id := range args {
			// One collection serves all that were deleted before it.
			r := &leasesapi.DeleteRequest{ID: id, Sync: *sync && i == len(args)-1}
			if _, err := c.Leases().Delete(s.ctx, r); err != nil {
				return err
			}
			fmt.Fprintln(s.out, id)
		}
		return nil
	}
}

// collect waits for a collection of garbage, which the end of a lease brings
// about.
func (s *session) collect() error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	id, err := c.NewLease(s.ctx, "", time.Hour, nil)
	if err != nil {
		return err
	}
	_, err = c.Leases().Delete(s.ctx, &leasesapi.DeleteRequest{ID: id, Sync: true})
	return err
}
