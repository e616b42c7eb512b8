// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"

	"slipway/runtime/features"
)

func showFeatures(*flags) func(*app, []string) error {
	return func(a *app, _ []string) error {
		f := features.Runtime()
		f.Annotations = map[string]string{
			"org.opencontainers.runc.version":            releaseVersion,
			"org.opencontainers.runc.commit":             "",
			"org.opencontainers.runc.checkpoint.enabled": "true",
		}
		text, err := json.MarshalIndent(f, "", "    ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stdout, string(text))
		return err
	}
}
