// SPDX-License-Identifier: Apache-2.0

// Package event carries what happens in the daemon to those who asked for it.
package event

import (
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/ident"
)

// An Envelope is one event. Topic starts with a slash, and each of its
// components is an identifier.
type Envelope struct {
	Timestamp time.Time
	Namespace ident.Namespace
	Topic     string
	Event     *anypb.Any
}
