// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestProfileIsTakenByTheParser(t *testing.T) {
	text := Profile("test", false, false)
	for _, want := range []string{"@{PROC}=/proc/", "profile test flags=", "deny mount,", "peer=test,"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Skip("needs apparmor_parser to check the rest")
	}
	cmd := exec.Command("apparmor_parser", "--skip-kernel-load", "--skip-cache", "--stdout")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.Output(); err != nil || len(out) == 0 {
		t.Errorf("apparmor_parser: %v: %d bytes", err, len(out))
	}
}

func TestDefaultNamesWhatIsMissing(t *testing.T) {
	for _, name := range []string{"", "a b", "{", "x,"} {
		if err := Default(context.Background(), name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("profile %q: %v", name, err)
		}
	}
	if Enabled() {
		t.Skip("the kernel has AppArmor")
	}
	if err := Default(context.Background(), "slipway-test"); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "kernel has no AppArmor") {
		t.Errorf("without AppArmor: %v", err)
	}
}

func TestLoadedProfilesAreFound(t *testing.T) {
	const list = "/usr/bin/man (enforce)\ndocker-default (enforce)\nodd name (x) (complain)\n"
	for name, want := range map[string]bool{"docker-default": true, "docker": false, "/usr/bin/man": true, "": false} {
		if got, err := contains(strings.NewReader(list), name); got != want || err != nil {
			t.Errorf("contains(%q) = %v, %v", name, got, err)
		}
	}
}
