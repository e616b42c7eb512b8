// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"

	"slipway/service"
)

const noTraces = "this build sends no traces"

// The options of what sends traces upstream, which takes them from the
// environment only, as well.
type (
	otlpOptions struct {
		Endpoint string `toml:"endpoint,omitempty" dead:"this build sends no traces"`
		Protocol string `toml:"protocol,omitempty" dead:"this build sends no traces"`
		Insecure bool   `toml:"insecure,omitempty" dead:"this build sends no traces"`
	}
	tracingOptions struct {
		ServiceName   string  `toml:"service_name,omitempty" dead:"this build sends no traces"`
		SamplingRatio float64 `toml:"sampling_ratio,omitempty" dead:"this build sends no traces"`
	}
)

func otlpDefaults() any    { return &otlpOptions{} }
func tracingDefaults() any { return &tracingOptions{} }

// openTracing fails where the environment asks for traces, so that nobody
// waits for them in vain.
func (d *Daemon) openTracing(*service.Plugin) error {
	if v := os.Getenv("OTEL_SDK_DISABLED"); v != "" {
		off, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("OTEL_SDK_DISABLED: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if off {
			return fmt.Errorf("tracing disabled by env OTEL_SDK_DISABLED=%s: %w", v, errSkip)
		}
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		if os.Getenv(name) != "" {
			return fmt.Errorf("%s is set, but %s", name, noTraces)
		}
	}
	return fmt.Errorf("tracing endpoint not configured: %w", errSkip)
}
