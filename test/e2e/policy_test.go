// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"slipway/test/host"
)

func TestAPolicyDecidesWhatIsPulledAndRuns(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := host.Start(t, host.Options{Config: fmt.Sprintf("[plugins.'io.containerd.image-verifier.v1.policy']\npath = %q\n", policy)})
	r := host.StartRegistry(t)
	good, other := r.Push(t, host.Busybox(t), "good/busybox:latest"), r.Push(t, host.Busybox(t), "other/busybox:latest")
	fails(t, d, 1, "no such file", pullArgs(good)...)
	write("version = 1\ndefault = 'deny'\n[[rule]]\nmatch = '*/good/**'\naction = 'allow'\n")
	fails(t, d, 1, "policy.toml: default: the image is denied", pullArgs(other)...)
	fails(t, d, 1, "the image is denied", "run", "--rm", "--rootfs", t.TempDir(), host.Unique("rootfs"), "true")
	d.Ctr(t, pullArgs(good)...)
	d.Ctr(t, "run", "--rm", good, host.Unique("good"), "true")
	d.Ctr(t, "i", "tag", good, other)
	fails(t, d, 1, "the image is denied", "run", "--rm", other, host.Unique("other"), "true")
	write("version = 1\ndefault = 'deny'\n[[rule]\n")
	fails(t, d, 1, "policy.toml:3:", "run", "--rm", good, host.Unique("broken"), "true")
	write("version = 1\ndefault = 'allow'\n")
	d.Ctr(t, "run", "--rm", other, host.Unique("again"), "true")
	empty(t, d)
}
