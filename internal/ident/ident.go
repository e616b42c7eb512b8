// SPDX-License-Identifier: Apache-2.0

// Package ident says which names a client may give to things: namespaces,
// containers, tasks, execs, leases, sandboxes, and the labels on them.
package ident

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// MaxLen is the largest length in bytes of an identifier.
const MaxLen = 76

// maxLabel is the largest sum of the lengths of a label's key and value.
const maxLabel = 4096

// pattern is what identifiers match, for the error that says so.
const pattern = `^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$`

// A Namespace keeps the objects of one client apart from those of others.
type Namespace string

// Check reports why ns cannot name a namespace. The error is
// errdefs.ErrFailedPrecondition if there is none and
// errdefs.ErrInvalidArgument if it is malformed.
func (ns Namespace) Check() error {
	if ns == "" {
		return fmt.Errorf("namespace is required: %w", errdefs.ErrFailedPrecondition)
	}
	if err := Check(string(ns)); err != nil {
		return fmt.Errorf("namespace validation: %w", err)
	}
	return nil
}

// Check reports why id is not an identifier, as errdefs.ErrInvalidArgument.
func Check(id string) error {
	if id == "" {
		return fmt.Errorf("identifier must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if len(id) > MaxLen {
		return fmt.Errorf("identifier %q greater than maximum length (%d characters): %w", id, MaxLen, errdefs.ErrInvalidArgument)
	}
	if !matches(id) {
		return fmt.Errorf("identifier %q must match %v: %w", id, pattern, errdefs.ErrInvalidArgument)
	}
	return nil
}

// matches is pattern written out: every program that starts pays for what is
// compiled ahead of main.
func matches(id string) bool {
	parted := true // at the beginning or after a separator
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			parted = false
		case parted || c != '.' && c != '_' && c != '-':
			return false
		default:
			parted = true
		}
	}
	return !parted
}

// CheckLabel reports why a label cannot be kept, as errdefs.ErrInvalidArgument:
// it has no name, is too long, or no text, which no message can carry.
func CheckLabel(key, value string) error {
	if key == "" {
		return fmt.Errorf("failed to set label %q=%q: key required: %w", key, value, errdefs.ErrInvalidArgument)
	}
	if !utf8.ValidString(key) || !utf8.ValidString(value) {
		return fmt.Errorf("label %q=%q: not UTF-8: %w", key, value, errdefs.ErrInvalidArgument)
	}
	if n := len(key) + len(value); n > maxLabel {
		if len(key) > 64 {
			key = key[:64]
		}
		return fmt.Errorf("label key and value length (%d bytes) greater than maximum size (%d bytes), key: %s: %w", n, maxLabel, key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// CheckLabels checks every label of a map.
func CheckLabels(labels map[string]string) error {
	for k, v := range labels {
		if err := CheckLabel(k, v); err != nil {
			return err
		}
	}
	return nil
}

// A Scope is what a request acts in: its namespace, and the lease that keeps
// what the request creates. Lease is empty if there is none.
type Scope struct {
	Namespace Namespace
	Lease     string
}

type scopeKey struct{}

// WithScope returns a context that carries s from an interceptor to a handler.
func WithScope(ctx context.Context, s Scope) context.Context {
	return context.WithValue(ctx, scopeKey{}, s)
}

// ScopeOf returns the scope of a request. It fails as Namespace.Check does.
func ScopeOf(ctx context.Context) (Scope, error) {
	s, _ := ctx.Value(scopeKey{}).(Scope)
	return s, s.Namespace.Check()
}
