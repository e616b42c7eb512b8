// SPDX-License-Identifier: Apache-2.0

package task

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keepStreams notes where the streams of the first process go.
func (s *Shim) keepStreams(to Stdio) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = to
}

// removeFIFOs removes the FIFOs of a container whose shim has died, with their
// directory if they were all of it. The client that made them may be gone, and
// no other learns their names now that there is no task to ask. Who has them
// open reads to the end.
func (s *Shim) removeFIFOs() {
	s.mu.Lock()
	streams := s.streams
	s.mu.Unlock()
	for _, to := range []string{streams.Stdin, streams.Stdout, streams.Stderr} {
		if u, err := url.Parse(to); err == nil && u.Scheme == "fifo" {
			to = u.Path
		}
		if !filepath.IsAbs(to) {
			continue
		}
		if info, err := os.Lstat(to); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
			continue // gone, or a file that is the client's
		}
		os.Remove(to)
		unix.Rmdir(filepath.Dir(to))
	}
}
