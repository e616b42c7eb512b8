// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
)

func sandboxCommands() []command {
	return []command{
		{use: "run CONFIG ID", aliases: []string{"create", "c", "r"}, short: "Run a sandbox", declare: runSandbox},
		{use: "list", aliases: []string{"ls"}, short: "List sandboxes", declare: listSandboxes},
		{use: "remove ID...", aliases: []string{"rm"}, short: "Remove sandboxes", declare: removeSandboxes},
		{use: "info ID", aliases: []string{"i"}, short: "Print the record of a sandbox", declare: sandboxInfo},
	}
}

func runSandbox(f flagSet) action {
	runtime := f.String("runtime", client.DefaultRuntime, "Name of the runtime")
	return func(s *session, args []string) error {
		if len(args) != 2 {
			return errUsage
		}
		data, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("failed to read sandbox config: %w", err)
		}
		if !json.Valid(data) {
			return fmt.Errorf("failed to parse sandbox config: %s is not JSON: %w", args[0], errdefs.ErrInvalidArgument)
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		id := args[1]
		config := &anypb.Any{TypeUrl: "types.containerd.io/pod-config", Value: data}
		sandbox := &types.Sandbox{SandboxID: id, Runtime: &types.Sandbox_Runtime{Name: *runtime}, Spec: config, Sandboxer: "shim"}
		if _, err := c.Sandboxes().Create(s.ctx, &sandboxapi.StoreCreateRequest{Sandbox: sandbox}); err != nil {
			return fmt.Errorf("failed to create new sandbox: %w", err)
		}
		if err := s.startSandbox(c, sandbox, config); err != nil {
			ctx, cancel := s.cleanup()
			defer cancel()
			c.SandboxController().Shutdown(ctx, &sandboxapi.ControllerShutdownRequest{SandboxID: id, Sandboxer: sandbox.Sandboxer})
			c.Sandboxes().Delete(ctx, &sandboxapi.StoreDeleteRequest{SandboxID: id})
			return err
		}
		return nil
	}
}

func (s *session) startSandbox(c *client.Client, sandbox *types.Sandbox, config *anypb.Any) error {
	control := c.SandboxController()
	_, err := control.Create(s.ctx, &sandboxapi.ControllerCreateRequest{
		SandboxID: sandbox.SandboxID, Sandbox: sandbox, Options: config, Sandboxer: sandbox.Sandboxer,
	})
	if err == nil {
		_, err = control.Start(s.ctx, &sandboxapi.ControllerStartRequest{SandboxID: sandbox.SandboxID, Sandboxer: sandbox.Sandboxer})
	}
	if err != nil {
		return fmt.Errorf("failed to create new sandbox: %w", err)
	}
	return nil
}

func listSandboxes(f flagSet) action {
	filters := listFlag(f, "filters", "Filter")
	return func(s *session, _ []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Sandboxes().List(s.ctx, &sandboxapi.StoreListRequest{Filters: *filters})
		if err != nil {
			return fmt.Errorf("failed to list sandboxes: %w", err)
		}
		w := s.table(1, 1, "ID\tCREATED\tRUNTIME\t")
		for _, b := range resp.List {
			fmt.Fprintf(w, "%s\t%s\t%s\t\n", b.SandboxID, b.CreatedAt.AsTime(), b.Runtime.GetName())
		}
		return w.Flush()
	}
}

func removeSandboxes(f flagSet) action {
	force := f.BoolP("force", "f", false, "Remove it even if it does not shut down")
	return func(s *session, ids []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		return s.each(ids, "failed to remove sandbox %s", func(id string) error {
			b, err := c.Sandboxes().Get(s.ctx, &sandboxapi.StoreGetRequest{SandboxID: id})
			if errdefs.IsNotFound(err) { // as good as removed
				s.log().Error("failed to load sandbox "+id, "error", err)
				return nil
			}
			if err != nil {
				return err
			}
			sandboxer := b.Sandbox.GetSandboxer()
			if _, err := c.SandboxController().Stop(s.ctx, &sandboxapi.ControllerStopRequest{SandboxID: id, Sandboxer: sandboxer}); err != nil && !*force {
				return fmt.Errorf("sandbox %s: stop: %w", id, err)
			}
			if _, err := c.SandboxController().Shutdown(s.ctx, &sandboxapi.ControllerShutdownRequest{SandboxID: id, Sandboxer: sandboxer}); err != nil && !*force {
				return fmt.Errorf("sandbox %s: shut down: %w", id, err)
			}
			if _, err := c.Sandboxes().Delete(s.ctx, &sandboxapi.StoreDeleteRequest{SandboxID: id}); err != nil {
				return err
			}
			s.log().Info("deleted: " + id)
			return nil
		})
	}
}

// sandboxRecord is how a sandbox is printed.
type sandboxRecord struct {
	ID         string
	Labels     map[string]string
	Runtime    containerRuntime
	Spec       any
	Sandboxer  string
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Extensions map[string]*anypb.Any
}

func sandboxInfo(flagSet) action {
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return fmt.Errorf("sandbox id must be provided: %w", errdefs.ErrInvalidArgument)
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Sandboxes().Get(s.ctx, &sandboxapi.StoreGetRequest{SandboxID: args[0]})
		if err != nil {
			return err
		}
		b := resp.Sandbox
		var spec any
		if b.Spec != nil {
			if spec, err = decode(b.Spec); err != nil {
				return err
			}
		}
		return s.json(sandboxRecord{
			ID: b.SandboxID, Labels: b.Labels, Runtime: containerRuntime{b.Runtime.GetName(), b.Runtime.GetOptions()}, Spec: spec,
			Sandboxer: b.Sandboxer, CreatedAt: b.CreatedAt.AsTime(), UpdatedAt: b.UpdatedAt.AsTime(), Extensions: b.Extensions,
		})
	}
}
