// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/client"
	"slipway/internal/version"
)

func showVersion(flagSet) action {
	return func(s *session, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("extra arguments: &%v", args)
		}
		fmt.Fprintf(s.out, "Client:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n\n", version.Version, version.Revision, runtime.Version())
		c, err := s.dial()
		if err != nil {
			return err
		}
		v, uuid, err := versions(s.ctx, c)
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "Server:\n  Version:  %s\n  Revision: %s\n  UUID: %s\n", v.Version, v.Revision, uuid)
		if v.Version != version.Version {
			fmt.Fprintln(s.err, "WARNING: version mismatch")
		}
		if v.Revision != version.Revision {
			fmt.Fprintln(s.err, "WARNING: revision mismatch")
		}
		return nil
	}
}

func versions(ctx context.Context, c *client.Client) (*versionapi.VersionResponse, string, error) {
	var uuid string
	var identity error
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err := server(ctx, c)
		uuid, identity = resp.GetUUID(), err
	}()
	v, err := c.Version().Version(ctx, &emptypb.Empty{})
	<-done
	return v, uuid, errors.Join(err, identity)
}

func info(flagSet) action {
	return func(s *session, _ []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := server(s.ctx, c)
		if err != nil {
			return err
		}
		return s.json(map[string]any{"server": resp})
	}
}

func deprecationCommands() []command {
	return []command{{use: "list", aliases: []string{"ls"}, short: "List what is in use and about to go", declare: listDeprecations}}
}

func listDeprecations(f flagSet) action {
	format := f.String("format", "default", "Output, default or json")
	return func(s *session, _ []string) error {
		// The list is the output: no warnings besides.
		c, err := client.Dial(s.ctx, s.globals.address, client.Options{Namespace: s.globals.namespace})
		if err != nil {
			return err
		}
		defer c.Close()
		resp, err := server(s.ctx, c)
		if err != nil {
			return err
		}
		type deprecation struct {
			ID             string    `json:"id"`
			Message        string    `json:"message"`
			LastOccurrence time.Time `json:"lastOccurrence"`
		}
		var all []deprecation
		for _, d := range resp.Deprecations {
			all = append(all, deprecation{d.ID, d.Message, d.LastOccurrence.AsTime()})
		}
		if len(all) == 0 {
			return nil
		}
		if *format == "json" {
			return s.json(all)
		}
		w := s.table(4, 4, "ID\tLAST OCCURRENCE\tMESSAGE\t")
		for _, d := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\n", d.ID, d.LastOccurrence.Format(time.RFC3339Nano), d.Message)
		}
		return w.Flush()
	}
}
