// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	"slipway/oci"
)

func ociCommands() []command {
	return []command{{use: "spec", short: "Print the default runtime spec", declare: printSpec}}
}

func printSpec(f flagSet) action {
	platform := f.String("platform", "", "Platform of the spec")
	return func(s *session, _ []string) error {
		if *platform != "" {
			p, err := platforms.Parse(*platform)
			if err != nil {
				return fmt.Errorf("failed to generate spec: %w", err)
			}
			if p.OS != "linux" {
				return fmt.Errorf("spec for %s: %w", *platform, errdefs.ErrNotImplemented)
			}
		}
		data, err := json.MarshalIndent(oci.Bare(s.globals.namespace, ""), "", "    ")
		if err != nil {
			return fmt.Errorf("spec: %w", err)
		}
		_, err = fmt.Fprintln(s.out, string(data))
		return err
	}
}
