// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPTY returns both ends of a new terminal.
func openPTY(t *testing.T) (master, slave *os.File) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// screen is what a terminal has shown.
type screen struct {
	master *os.File
	mu     sync.Mutex
	text   strings.Builder
}

func (s *screen) read() {
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
	}
}

// expect waits until want has been shown since the last call.
func (s *screen) expect(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		text := s.text.String()
		if at := strings.Index(text, want); at >= 0 {
			s.text.Reset()
			s.text.WriteString(text[at+len(want):])
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if time.Now().After(end) {
			t.Fatalf("no %q in %q", want, text)
		}
	}
}

func (s *screen) enter(t *testing.T, keys string) {
	t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

func (s *screen) size(t *testing.T, rows, cols uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
}

// testTerminal claims that run -t and exec -t give a process a terminal of
// the size of ours, follow its changes, pass control characters on, exit with
// the status of the process, and leave ours as it was.
func testTerminal(t *testing.T, d *daemon, image string) {
	ns := namespace("pty")
	t.Cleanup(func() { d.clean(t, ns) })
	for _, args := range [][]string{{"i", "pull", "--plain-http", image}, {"run", "-d", image, "t1"}} {
		if out, err := d.run(ns, args...); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	for _, args := range [][]string{{"run", "--rm", "-t", image, "t2", "sh"}, {"t", "exec", "-t", "--exec-id", "e1", "t1", "sh"}} {
		master, slave := openPTY(t)
		s := &screen{master: master}
		s.size(t, 33, 99)
		before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		c := osexec.Command(d.ctr, append([]string{"-a", d.address, "-n", ns}, args...)...)
		c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		go s.read()
		s.expect(t, "# ")
		s.enter(t, "stty size\n")
		s.expect(t, "33 99")
		s.size(t, 44, 88)
		s.enter(t, "until [ \"$(stty size)\" = '44 88' ]; do sleep 0.1; done; echo re''sized\n")
		s.expect(t, "resized")
		s.enter(t, "echo go''ing; sleep 1000\n")
		s.expect(t, "going")
		s.enter(t, "\x03")
		s.enter(t, "exit 4\n")
		c.Wait()
		if got := c.ProcessState.ExitCode(); got != 4 {
			t.Errorf("%s: exit status %d, not 4", args, got)
		}
		after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil || *before != *after {
			t.Errorf("%s: the terminal was left as %+v, not %+v: %v", args, after, before, err)
		}
		slave.Close()
	}
}
