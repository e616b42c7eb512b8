// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"slipway/internal/fault"
	"slipway/internal/ident"
)

// Retire ends a shim whose container has been deleted, and removes its
// bundle. It is off the list first, or its end would be taken for a loss. If
// somebody else removes the shim already, it waits for that.
func (x *Shims) Retire(ctx context.Context, s *Shim, shutdown func(context.Context, *Shim) error) error {
	if !x.take(s) {
		return x.awaitRemoval(ctx, s)
	}
	defer x.removed(s)
	if err := shutdown(ctx, s); err != nil {
		x.log.Warn(x.kind+": shut down shim", "namespace", s.b.ns, "id", s.b.id, "error", err)
		x.endShim(s.b)
	}
	fault.Point("task.shim.shutdown")
	s.close()
	return s.b.remove()
}

// Abandon gets rid of a shim that was started in vain and of all it did.
func (x *Shims) Abandon(ctx context.Context, s *Shim) error {
	if !x.take(s) {
		return x.awaitRemoval(ctx, s)
	}
	defer x.removed(s)
	x.clean(ctx, s.b, s.firstProcess())
	s.close()
	return s.b.remove()
}

// bury cleans up after a shim whose connection has ended by itself.
func (x *Shims) bury(s *Shim) {
	if !x.take(s) {
		return
	}
	defer x.removed(s)
	log := x.log.With("namespace", s.b.ns, "id", s.b.id)
	log.Warn(x.kind + ": the shim has died, cleaning up")
	exit := x.clean(context.Background(), s.b, s.firstProcess())
	s.exit = &exit
	s.close()
	if err := s.b.remove(); err != nil {
		log.Error(x.kind+": remove bundle of dead shim", "error", err)
	}
	s.removeFIFOs()
	x.lost(s.b.ns, s.b.id, exit)
}

// removed ends the removal of a shim that was taken: its name is free before
// those who wait for it go on.
func (x *Shims) removed(s *Shim) {
	x.free(s.b)
	close(s.removed)
}

func (x *Shims) awaitRemoval(ctx context.Context, s *Shim) error {
	select {
	case <-s.removed:
		return nil
	case <-x.done:
		return fmt.Errorf("%s %s: the daemon stops: %w", x.kind, s.b.id, errdefs.ErrUnavailable)
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", x.kind, s.b.id, ctx.Err())
	}
}

// AwaitBurial waits until nothing is left of a shim whose connection has
// ended, and returns how its container ended. If it did not die, but was
// deleted by another call, the error is errdefs.ErrNotFound.
func (x *Shims) AwaitBurial(ctx context.Context, s *Shim) (Exit, error) {
	if err := x.awaitRemoval(ctx, s); err != nil {
		return Exit{}, err
	}
	if s.exit == nil {
		return Exit{}, fmt.Errorf("%s %s was deleted: %w", x.kind, s.b.id, errdefs.ErrNotFound)
	}
	return *s.exit, nil
}

// clean ends what is left of a shim's container: the shim itself, what its
// delete command finds, and the container's processes if that failed.
func (x *Shims) clean(ctx context.Context, b bundle, first process) Exit {
	ctx, cancel := context.WithTimeout(ctx, 2*x.cfg.Timeouts.Cleanup)
	defer cancel()
	log := x.log.With("namespace", b.ns, "id", b.id)
	if first.pid == 0 {
		first, _ = b.firstProcess()
	}
	exit := Exit{Pid: uint32(first.pid), Status: 255, At: time.Now().UTC()}
	x.endShim(b)
	if bin := x.binaryOf(ctx, b); bin != "" {
		e, err := x.deleteRemains(ctx, bin, b)
		if err != nil {
			log.Warn("shim delete", "error", err)
		} else {
			exit = e
		}
	}
	killed, err := first.end(ctx)
	if err != nil {
		log.Error(x.kind+": processes of a dead shim remain", "error", err)
	}
	if killed {
		exit.Status = 128 + 9
		log.Warn(x.kind+": killed what a dead shim has left", "pid", first.pid)
	}
	return exit
}

// endShim kills the processes of a shim and removes its socket. It reports
// false if others use the shim, which is left alone then.
func (x *Shims) endShim(b bundle) bool {
	e, err := b.endpoint()
	if err == nil && x.shared(b, e.Address) || b.read(fileSandbox) != "" {
		return false
	}
	if bin := x.binaryOf(context.Background(), b); bin != "" {
		killIn(b.path, bin)
	}
	if u, uerr := url.Parse(e.Address); err == nil && uerr == nil && u.Scheme == "unix" {
		os.Remove(u.Path)
	}
	return true
}

// binaryOf finds the shim of a bundle, "" for one that is attached to a
// sandbox. Daemons before 1.7 did not write it down.
func (x *Shims) binaryOf(ctx context.Context, b bundle) string {
	bin := b.read(fileBinary)
	if bin != "" || b.read(fileSandbox) != "" || x.cfg.DB == nil {
		return bin
	}
	c, err := x.cfg.DB.Containers(ident.Scope{Namespace: b.ns}).Get(ctx, b.id)
	if err != nil {
		return ""
	}
	bin, err = x.find.binary(c.Runtime.Name, "")
	if err != nil {
		x.log.Warn(x.kind+": shim of old bundle", "namespace", b.ns, "id", b.id, "error", err)
	}
	return bin
}
