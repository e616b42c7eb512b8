// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"testing"

	"github.com/containerd/errdefs"
)

// TestStateCheck has a row for every state and a column for every operation.
func TestStateCheck(t *testing.T) {
	const no, gone = "no", "gone"
	ops := []string{"start", "exec", "pause", "resume", "update", "checkpoint", "kill", "delete"}
	for _, tt := range []struct {
		in   state
		want [8]string
	}{
		{created, [8]string{"", "", no, no, "", no, "", ""}},
		{starting, [8]string{no, no, no, no, no, no, "", no}},
		{running, [8]string{no, "", "", no, "", "", "", no}},
		{pausing, [8]string{no, no, no, no, no, no, "", no}},
		{paused, [8]string{no, no, no, "", "", "", "", no}},
		{stopped, [8]string{no, no, no, no, no, no, gone, ""}},
		{deleting, [8]string{gone, gone, gone, gone, gone, gone, gone, gone}},
		{deleted, [8]string{gone, gone, gone, gone, gone, gone, gone, gone}},
	} {
		for i, op := range ops {
			err := tt.in.check(op)
			got := ""
			if errdefs.IsNotFound(err) {
				got = gone
			} else if err != nil {
				got = no
			}
			if got != tt.want[i] {
				t.Errorf("%s.check(%s) = %v, want %q", tt.in, op, err, tt.want[i])
			}
		}
	}
}

func TestRefusalsAreThoseThatClientsKnow(t *testing.T) {
	for _, tt := range []struct {
		in       state
		op, want string
	}{
		{running, "delete", "cannot delete a running process"},
		{created, "pause", "cannot pause task in created state"},
		{paused, "pause", "cannot pause a paused container"},
		{running, "resume", "cannot resume a running process"},
		{stopped, "resume", "cannot resume a stopped container"},
		{stopped, "exec", "cannot exec in a stopped state"},
		{stopped, "kill", "process already finished: not found"},
	} {
		if err := tt.in.check(tt.op); err == nil || err.Error() != tt.want {
			t.Errorf("%s.check(%s) = %v, want %s", tt.in, tt.op, err, tt.want)
		}
	}
}
