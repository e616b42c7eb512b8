// SPDX-License-Identifier: Apache-2.0

// Package session runs the script sessions that the README and the
// documentation offer, as typed.
package session

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

// script runs a script of scripts/, which must end with its last line.
func script(t *testing.T, name, last string, env ...string) {
	t.Helper()
	host.NeedBuilt(t)
	r := host.Exec(t, env, "", filepath.Join(host.Root(), "scripts", name))
	if r.Code != 0 || !strings.HasSuffix(r.Stdout, last) {
		t.Fatalf("%s: exit code %d\n%s%s", name, r.Code, r.Stdout, r.Stderr)
	}
}

func TestQuickstart(t *testing.T) { script(t, "quickstart.sh", "\nquickstart: done\n") }

func TestDebianDoesRealWork(t *testing.T) {
	host.Need(t, "debootstrap", "skopeo", "docker-registry")
	script(t, "debian.sh", "\ndebian: done\n", "SIZE_MB=256")
}
