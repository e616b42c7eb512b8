// SPDX-License-Identifier: Apache-2.0

// Package monitor watches tasks: it restarts those whose containers ask for
// it, and reports what their cgroups count.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/task"
)

// The labels by which a container asks to be restarted.
const (
	labelStatus  = "containerd.io/restart.status" // what its task should be: running or stopped
	labelPolicy  = "containerd.io/restart.policy"
	labelCount   = "containerd.io/restart.count" // starts so far, kept here
	labelLogURI  = "containerd.io/restart.loguri"
	labelStopped = "containerd.io/restart.explicitly-stopped"
)

// Policies are those that a label may name; on-failure may be followed by a
// colon and the number of times. No policy is "always".
var Policies = []string{"no", "always", "on-failure", "unless-stopped"}

// killTime bounds the end of a task that is to be stopped or replaced.
const killTime = 30 * time.Second

// tasks is what Restarts needs of task.Manager.
type tasks interface {
	life
	control
}

type life interface {
	Create(ctx context.Context, ns ident.Namespace, id string, opts task.CreateOpts) (uint32, error)
	Start(ctx context.Context, ns ident.Namespace, id, exec string) (uint32, error)
	Delete(ctx context.Context, ns ident.Namespace, id string) (task.Exit, error)
}

type control interface {
	Get(ctx context.Context, ns ident.Namespace, id, exec string) (task.State, error)
	Kill(ctx context.Context, ns ident.Namespace, id, exec string, signal uint32, all bool) error
	Wait(ctx context.Context, ns ident.Namespace, id, exec string) (task.Exit, error)
}

// Restarts starts and stops tasks until they are as their labels say.
type Restarts struct {
	DB       *meta.DB
	Tasks    tasks
	Interval time.Duration
}

// Run looks at all containers at every interval, until ctx ends.
func (r *Restarts) Run(ctx context.Context) {
	tick := time.NewTicker(r.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.reconcile(ctx)
		}
	}
}

func (r *Restarts) reconcile(ctx context.Context) {
	namespaces, err := r.DB.Namespaces().List(ctx)
	if err != nil {
		slog.Error("restart monitor", "error", err)
		return
	}
	for _, ns := range namespaces {
		containers, err := r.DB.Containers(ident.Scope{Namespace: ns}).List(ctx, `labels."`+labelStatus+`"`)
		if err != nil {
			slog.Error("restart monitor", "namespace", ns, "error", err)
			continue
		}
		for _, c := range containers {
			if err := r.adjust(ctx, ns, c); err != nil && ctx.Err() == nil {
				slog.Error("restart monitor", "namespace", ns, "id", c.ID, "error", err)
			}
		}
	}
}

// adjust brings one task into the wanted state.
func (r *Restarts) adjust(ctx context.Context, ns ident.Namespace, c meta.Container) error {
	state, err := r.Tasks.Get(ctx, ns, c.ID, "")
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("state of the task: %w", err)
	}
	there := err == nil
	switch c.Labels[labelStatus] {
	case "stopped":
		if !there || state.Status == task.Stopped {
			return nil
		}
		return r.end(ctx, ns, c.ID)
	case "running":
		if there && state.Status != task.Stopped || !wanted(c.Labels, state) {
			return nil
		}
		return r.start(ctx, ns, c, there)
	}
	return nil
}

// wanted says whether the policy restarts a task that is not there, or that
// ended in state.
func wanted(labels map[string]string, state task.State) bool {
	policy, limit, _ := strings.Cut(labels[labelPolicy], ":")
	switch policy {
	case "", "always":
		return true
	case "unless-stopped":
		stopped, _ := strconv.ParseBool(labels[labelStopped])
		return !stopped
	case "on-failure":
		most, _ := strconv.Atoi(limit)
		done, _ := strconv.Atoi(labels[labelCount])
		return state.ExitStatus != 0 && (most == 0 || done < most)
	}
	return false
}

// start replaces the task. Its output goes where the label says, or nowhere:
// the FIFOs of the first task are those of a client that may be gone.
func (r *Restarts) start(ctx context.Context, ns ident.Namespace, c meta.Container, there bool) (err error) {
	if there {
		if err := r.end(ctx, ns, c.ID); err != nil {
			return err
		}
	}
	scope := ident.Scope{Namespace: ns}
	if err := r.count(ctx, scope, c); err != nil {
		return fmt.Errorf("count of restarts: %w", err)
	}
	rootfs, err := r.rootfs(ctx, scope, c)
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	uri := c.Labels[labelLogURI]
	if _, err := r.Tasks.Create(ctx, ns, c.ID, task.CreateOpts{Rootfs: rootfs, Stdio: task.Stdio{Stdout: uri, Stderr: uri}}); err != nil {
		return fmt.Errorf("create the task: %w", err)
	}
	if _, err := r.Tasks.Start(ctx, ns, c.ID, ""); err != nil {
		return errors.Join(fmt.Errorf("start the task: %w", err), r.end(ctx, ns, c.ID))
	}
	return nil
}

func (r *Restarts) count(ctx context.Context, scope ident.Scope, c meta.Container) error {
	n, _ := strconv.Atoi(c.Labels[labelCount])
	_, err := r.DB.Containers(scope).Update(ctx, meta.Container{
		ID: c.ID, Labels: map[string]string{labelCount: strconv.Itoa(n + 1)},
	}, "labels."+labelCount)
	return err
}

func (r *Restarts) rootfs(ctx context.Context, scope ident.Scope, c meta.Container) ([]mount.Mount, error) {
	if c.SnapshotKey == "" {
		return nil, nil
	}
	s, err := r.DB.Snapshotter(scope, c.Snapshotter)
	if err != nil {
		return nil, err
	}
	return s.Mounts(ctx, c.SnapshotKey)
}

// end kills a task, waits for its end and removes it.
func (r *Restarts) end(ctx context.Context, ns ident.Namespace, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	const sigkill = 9
	if err := r.Tasks.Kill(ctx, ns, id, "", sigkill, true); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("kill the task: %w", err)
	}
	if _, err := r.Tasks.Wait(ctx, ns, id, ""); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("wait for the task: %w", err)
	}
	if _, err := r.Tasks.Delete(ctx, ns, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete the task: %w", err)
	}
	return nil
}
