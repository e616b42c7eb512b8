// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"log/slog"
	goruntime "runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/linux"
)

func TestCapabilitiesThatTheCallerHasNotAreNamed(t *testing.T) {
	spec := func(namespaces ...specs.LinuxNamespace) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: namespaces}}
	}
	ask := func(permitted, effective string) *specs.LinuxCapabilities {
		return &specs.LinuxCapabilities{Permitted: strings.Fields(permitted), Effective: strings.Fields(effective)}
	}
	for name, tt := range map[string]struct {
		spec *specs.Spec
		caps *specs.LinuxCapabilities
		want string
	}{
		"on the host":                  {spec(), ask("CAP_KILL CAP_CHOWN", "CAP_KILL CAP_CHOWN"), "[CAP_CHOWN]"},
		"in a user namespace":          {spec(specs.LinuxNamespace{Type: specs.UserNamespace}), ask("CAP_KILL CAP_CHOWN", ""), ""},
		"effective but not permitted":  {spec(), ask("CAP_KILL", "CAP_KILL CAP_FOWNER"), "[CAP_FOWNER]"},
		"in a container of no bundle":  {&specs.Spec{}, ask("CAP_CHOWN", "CAP_CHOWN"), ""},
		"not there and not the kernel": {spec(), ask("CAP_UNKNOWN CAP_KILL", "CAP_UNKNOWN"), "[CAP_UNKNOWN]"},
	} {
		t.Run(name, func(t *testing.T) {
			log, out := logged(slog.LevelWarn)
			withoutCapability(t, "CAP_CHOWN", func() {
				warnOfCapabilities(log, tt.spec, &specs.Process{Capabilities: tt.caps})
			})
			if (tt.want == "") != (out.Len() == 0) || !strings.Contains(out.String(), tt.want) {
				t.Errorf("warned %q, want %q", out, tt.want)
			}
		})
	}
}

// withoutCapability runs f on a thread that has lost a capability, and waits for it.
func withoutCapability(t *testing.T, name string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		goruntime.LockOSThread() // for good: the thread ends with the goroutine
		caps, err := linux.GetCapabilities()
		if err != nil {
			t.Error(err)
			return
		}
		caps.Permitted &^= linux.CapabilityMask([]string{name})
		caps.Effective &= caps.Permitted
		if err := linux.SetCapabilities(caps); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}
