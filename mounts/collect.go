// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"

	"slipway/internal/ident"
)

const (
	labelBackRef = "containerd.io/gc.bref."
	labelExpire  = "containerd.io/gc.expire"
)

// collect deactivates what is tied to objects of which none is left. Ties are
// the lease of the request, the back references in labels and a time of
// expiry; an activation without any stays until it is deactivated. A label
// containerd.io/gc.ref.mount of an object keeps one as well.
func (m *Manager) collect(ctx context.Context) error {
	list, err := m.all()
	errs := []error{err}
	for _, s := range list {
		alive, err := m.alive(ctx, s, time.Now())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if alive || !s.complete {
			continue
		}
		err = m.Deactivate(ctx, s.ns, s.name)
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) alive(ctx context.Context, s stored, now time.Time) (bool, error) {
	tied := false
	if s.lease != "" {
		tied = true
		if leases, err := m.config.DB.Leases(s.ns).List(ctx, "id=="+strconv.Quote(s.lease)); err != nil || len(leases) > 0 {
			return true, err
		}
	}
	if expire, ok := s.info.Labels[labelExpire]; ok {
		at, err := time.Parse(time.RFC3339, expire)
		tied = tied || err == nil
		if err == nil && at.After(now) {
			return true, nil
		}
	}
	for k, v := range s.info.Labels {
		kind, ok := strings.CutPrefix(k, labelBackRef)
		if !ok {
			continue
		}
		tied = true
		exists, err := m.exists(ctx, ident.Scope{Namespace: s.ns}, kind, v)
		if exists || err != nil {
			return true, err
		}
	}
	if !tied {
		return true, nil
	}
	return m.config.DB.Refers(s.ns, "mount", s.name)
}

// exists looks for the object that a back reference names. The kind may have
// a free part after a separator.
func (m *Manager) exists(ctx context.Context, scope ident.Scope, kind, key string) (bool, error) {
	word, rest := kind, ""
	if i := strings.IndexAny(kind, "./"); i >= 0 {
		word, rest = kind[:i], kind[i+1:]
	}
	var err error
	switch word {
	case "container":
		_, err = m.config.DB.Containers(scope).Get(ctx, key)
	case "image":
		_, err = m.config.DB.Images(scope).Get(ctx, key)
	case "content":
		_, err = m.config.DB.Content(scope).Info(ctx, digest.Digest(key))
	case "snapshot":
		err = m.snapshotExists(ctx, scope, rest, key)
	default:
		return true, nil // of a later version: not ours to judge
	}
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return false, nil
	}
	return err == nil, err
}

func (m *Manager) snapshotExists(ctx context.Context, scope ident.Scope, snapshotter, key string) error {
	name, _, _ := strings.Cut(snapshotter, "/")
	sn, err := m.config.DB.Snapshotter(scope, name)
	if err != nil {
		return err
	}
	_, err = sn.Stat(ctx, key)
	return err
}
