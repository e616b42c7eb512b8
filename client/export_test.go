// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"strings"
	"testing"
)

// TestEndOfAnArchiveIsSeen claims that a stream that is left open is taken to
// be complete when, and only when, the trailer of an archive has come.
func TestEndOfAnArchiveIsSeen(t *testing.T) {
	zeros := strings.Repeat("\x00", tarTrailer)
	for _, c := range []struct {
		claim  string
		writes []string
		zeros  int
	}{
		{"at once", []string{"data" + zeros}, tarTrailer},
		{"in pieces", []string{"data" + zeros[:100], zeros[100:]}, tarTrailer},
		{"not within", []string{"data" + zeros, "more"}, 0},
		{"not before all of it", []string{"data" + zeros[:1023]}, tarTrailer - 1},
	} {
		var out bytes.Buffer
		a := &tarEnd{to: &out}
		for _, w := range c.writes {
			a.Write([]byte(w))
		}
		if a.zeros != c.zeros || out.String() != strings.Join(c.writes, "") {
			t.Errorf("%s: %d zeros", c.claim, a.zeros)
		}
		if c.zeros == tarTrailer && !a.wait(nil) {
			t.Errorf("%s: not seen", c.claim)
		}
	}
	ended := make(chan struct{})
	close(ended)
	if (&tarEnd{to: &bytes.Buffer{}}).wait(ended) {
		t.Error("a stream that ended is complete anyhow")
	}
}
