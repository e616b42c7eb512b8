// SPDX-License-Identifier: Apache-2.0

// Package mountproto puts mounts on the wire. It is apart from package mount
// so that the programs that only mount do not link the messages.
package mountproto

import (
	"github.com/containerd/containerd/api/types"

	"slipway/internal/mount"
)

// Of converts mounts to those of the API. mount.FromProto is the way back.
func Of(in []mount.Mount) []*types.Mount {
	var out []*types.Mount
	for _, m := range in {
		out = append(out, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}
