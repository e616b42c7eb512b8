// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/fault"
	"slipway/meta"
	"slipway/task/shimtest"
)

// envVictim makes the test's executable a daemon that creates or deletes a
// task and dies on the way: directory, shim and act.
const envVictim = "SLIPWAY_TASK_VICTIM"

func victim() {
	dir, rest, ok := strings.Cut(os.Getenv(envVictim), " ")
	if !ok {
		return
	}
	shim, act, _ := strings.Cut(rest, " ")
	h := &host{dir: dir, shim: shim}
	if err := h.act(act); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (h *host) act(act string) error {
	ctx := context.Background()
	cfg := h.config()
	var err error
	if cfg.DB, err = meta.Open(h.dir+"/meta.db", meta.Options{NoSync: true}, nil, nil, cfg.Events); err != nil {
		return err
	}
	m, err := New(cfg)
	if err != nil {
		return err
	}
	if err := m.Load(ctx); err != nil {
		return err
	}
	if act == "delete" {
		_, err = m.Delete(ctx, ns, "c")
		return err
	}
	_, err = m.Create(ctx, ns, "c", CreateOpts{})
	return err
}

func (h *host) die(t *testing.T, act, point string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), envVictim+"="+h.dir+" "+h.shim+" "+act, fault.Env+"="+point)
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err == nil || !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("the daemon did not die at %s: %v: %s", point, err, out)
	}
}

func TestDaemonDiesDuringCreate(t *testing.T) {
	for _, point := range []string{
		"task.bundle.made", "task.bundle.linked", "task.shim.started", "task.shim.recorded", "task.shim.connected", "task.created",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			m := h.open(t)
			h.container(t, m, "c", shimtest.Options{})
			m.closeAll()
			h.die(t, "create", point)
			m = h.open(t)
			if point == "task.created" {
				if _, err := m.Delete(t.Context(), ns, "c"); err != nil {
					t.Error(err)
				}
			}
			h.checkEmpty(t)
			if _, err := m.Create(t.Context(), ns, "c", CreateOpts{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDaemonDiesDuringDelete(t *testing.T) {
	for _, point := range []string{
		"task.deleted", "task.shim.shutdown", "task.bundle.unmounted", "task.bundle.renamed", "task.bundle.removed", "task.bundle.renamed:2",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			m := h.open(t)
			h.container(t, m, "c", shimtest.Options{})
			if _, err := m.Create(t.Context(), ns, "c", CreateOpts{}); err != nil {
				t.Fatal(err)
			}
			m.closeAll()
			h.die(t, "delete", point)
			m = h.open(t)
			if list, err := m.List(t.Context(), ns); err != nil || len(list) > 0 {
				t.Error(list, err)
			}
			h.checkEmpty(t)
		})
	}
}
