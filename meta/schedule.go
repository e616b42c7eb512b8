// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// SchedulerConfig says when collections run; the names are those of the
// configuration file.
type SchedulerConfig struct {
	PauseThreshold    float64 // the part of time that collections may take, at most 0.5
	DeletionThreshold int     // removals that start a collection at once, 0 for none
	MutationThreshold int     // changes after which the timer collects without removals
	ScheduleDelay     time.Duration
	StartupDelay      time.Duration
	// Observe hears of every collection, nil for nobody.
	Observe func(GCStats, error)
}

// shortestGC is what a collection is taken to need at least, so that a
// pause threshold never makes them follow each other at once.
const shortestGC = 5 * time.Millisecond

// lateDelay is when snapshotters of other processes are asked again.
const lateDelay = time.Minute

// Scheduler runs collections. Run it in one goroutine.
type Scheduler struct {
	db     *DB
	config SchedulerConfig
	wake   chan struct{} // collect now
	stir   chan struct{} // collect when the interval has passed

	mu        sync.Mutex
	deletions int
	mutations int
	waiters   []chan error
}

// NewScheduler returns a scheduler that hears of every change in db.
func NewScheduler(db *DB, config SchedulerConfig) *Scheduler {
	config.PauseThreshold = min(max(config.PauseThreshold, 0.001), 0.5)
	s := &Scheduler{db: db, config: config, wake: make(chan struct{}, 1), stir: make(chan struct{}, 1)}
	db.mu.Lock()
	db.onChange = s.changed
	db.mu.Unlock()
	return s
}

func (s *Scheduler) changed(deletion bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mutations++
	if deletion {
		s.deletions++
	}
	if n := s.config.DeletionThreshold; n > 0 && s.deletions >= n {
		signal(s.wake)
	} else if s.due() {
		signal(s.stir)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Wait returns when a collection that began after the call has ended.
func (s *Scheduler) Wait(ctx context.Context) error {
	done := make(chan error, 1)
	s.mu.Lock()
	s.waiters = append(s.waiters, done)
	s.mu.Unlock()
	signal(s.wake)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run collects until ctx ends: after the start-up delay, an interval after a
// change that calls for it, and at once for those who wait.
func (s *Scheduler) Run(ctx context.Context) {
	timer := time.NewTimer(s.config.StartupDelay)
	defer timer.Stop()
	again := time.AfterFunc(lateDelay, func() { signal(s.stir) })
	again.Stop()
	defer again.Stop()
	armed, average := true, shortestGC
	for {
		select {
		case <-ctx.Done():
			s.answer(s.take(), fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable))
			return
		case <-timer.C:
		case <-s.stir:
			if !armed {
				timer.Reset(s.interval(average))
				armed = true
			}
			continue
		case <-s.wake:
			if !sleep(ctx, s.config.ScheduleDelay) {
				continue
			}
		}
		armed = false
		waiters := s.take()
		stats, err := s.db.GC(ctx)
		if s.config.Observe != nil {
			s.config.Observe(stats, err)
		}
		if err != nil && ctx.Err() == nil {
			slog.Error("garbage collection", "error", err)
			err = fmt.Errorf("gc failed: %w", err)
		}
		if stats.Late != nil && ctx.Err() == nil {
			slog.Warn("garbage collection", "error", stats.Late)
			again.Reset(lateDelay)
		}
		s.answer(waiters, err)
		average = max(shortestGC, (average+stats.Took)/2)
		if err != nil {
			signal(s.stir) // again, later
		}
	}
}

// interval makes collections of that duration take the configured part of
// the time.
func (s *Scheduler) interval(gc time.Duration) time.Duration {
	return time.Duration(float64(gc)/s.config.PauseThreshold) - gc
}

// due is called with mu held.
func (s *Scheduler) due() bool {
	return s.deletions > 0 || s.config.MutationThreshold > 0 && s.mutations >= s.config.MutationThreshold
}

// take resets what asked for a collection, before it begins.
func (s *Scheduler) take() []chan error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiters
	s.waiters, s.deletions, s.mutations = nil, 0, 0
	return w
}

func (s *Scheduler) answer(waiters []chan error, err error) {
	for _, w := range waiters {
		w <- err
	}
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
