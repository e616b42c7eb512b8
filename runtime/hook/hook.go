// SPDX-License-Identifier: Apache-2.0

// Package hook runs the hooks of the runtime spec (config.md, "POSIX-platform
// Hooks"): programs that get the container's state on their standard input.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/internal/plainjson"
	"slipway/linux"
)

// A Waiter waits for a started command in place of its Wait: it belongs to a
// caller that reaps every child of its process. A nil one is Wait.
type Waiter func(*exec.Cmd) error

// Run runs hooks of the kind name one after the other, in the directory dir,
// until one fails.
func Run(ctx context.Context, name string, hooks []specs.Hook, dir string, state *specs.State, w Waiter) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := plainjson.Marshal(state)
	if err != nil {
		return err
	}
	for i := range hooks {
		if err := one(ctx, &hooks[i], dir, input, w); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", name, i, err)
		}
	}
	return nil
}

func one(ctx context.Context, h *specs.Hook, dir string, input []byte, w Waiter) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // not the runtime's
	}
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if w == nil {
		w = (*exec.Cmd).Wait
	}
	err := linux.OwnTimers(cmd.Start)
	if err == nil {
		err = w(cmd)
	}
	switch {
	case err == nil:
		return nil
	case h.Timeout != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("hook ran past specified timeout of %.1fs", float64(*h.Timeout))
	}
	return fmt.Errorf("%w, stdout: %s, stderr: %s", err, strings.TrimSpace(out.String()), strings.TrimSpace(errs.String()))
}
