// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/console"

	"slipway/test/host"
)

func TestTutorialWorksAsTyped(t *testing.T) {
	d, ref := start(t)
	d.Ctr(t, "i", "tag", ref, "busybox:latest")
	d.Ctr(t, "i", "rm", ref)
	if out := d.Ctr(t, "i", "ls", "-q"); strings.TrimSpace(out) != "busybox:latest" {
		t.Fatalf("images: %q", out)
	}
	d.Ctr(t, "run", "-d", "busybox:latest", "busybox")
	if out := d.Ctr(t, "c", "ls"); !strings.Contains(out, "busybox:latest") || !strings.Contains(out, "io.containerd.runc.v2") {
		t.Errorf("containers: %q", out)
	}
	if s := status(t, d, "busybox"); s != "RUNNING" {
		t.Errorf("the task is %q: its sh must wait on its stdin", s)
	}
	if out := d.Ctr(t, "t", "exec", "--exec-id", "1860", "busybox", "ls"); !strings.Contains(out, "bin\n") {
		t.Errorf("exec printed %q", out)
	}
	d.Ctr(t, "t", "kill", "-s", "SIGKILL", "busybox")
	host.Until(t, "the task is stopped", func() bool { return status(t, d, "busybox") == "STOPPED" })
	d.Ctr(t, "c", "rm", "busybox")
	empty(t, d)
}

func TestRunGivesOutputAndExitCode(t *testing.T) {
	d, ref := start(t)
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
	}{
		{[]string{"echo", "hi"}, 0, "hi\n"},
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		// Not the last command, which the shell would become: the first process
		// of a container ignores the signal.
		{[]string{"sh", "-c", "sh -c 'kill -TERM $$'; exit $?"}, 143, ""},
		{[]string{"sh", "-c", "echo out; echo err >&2; exit 3"}, 3, "out\n"},
	} {
		r := d.Try(t, append([]string{"run", "--rm", ref, host.Unique("run")}, c.args...)...)
		if r.Code != c.code || r.Stdout != c.stdout {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", c.args, r.Code, r.Stdout, r.Stderr)
		}
	}
	empty(t, d)
}

func TestRunEndsAtTheEndOfItsInput(t *testing.T) {
	d, ref := start(t)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for _, input := range []string{"", "hi\n", big} {
		r := d.Input(t, input, "run", "--rm", ref, host.Unique("pipe"), "cat")
		if r.Code != 0 || r.Stdout != input {
			t.Errorf("input of %d bytes: exit code %d, output of %d bytes, stderr %q", len(input), r.Code, len(r.Stdout), r.Stderr)
		}
	}
	empty(t, d)
}

// terminal runs ctr on a terminal of 100 columns and 40 lines, types input,
// and returns what the terminal shows and how ctr ended.
func terminal(t *testing.T, d *host.Daemon, input string, args ...string) (string, int) {
	t.Helper()
	pty, tty, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := pty.Resize(console.WinSize{Width: 100, Height: 40}); err != nil {
		t.Fatal(err)
	}
	setsid, err := exec.LookPath("setsid")
	if err != nil {
		t.Skip("needs setsid")
	}
	cmd := exec.Command(setsid, append([]string{"-c", "-w", filepath.Join(host.Bin(), "ctr"), "-a", d.Address}, args...)...)
	term := openTerminal(t, tty)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = term, term, term
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term.Close()
	shown := make(chan string, 1)
	go func() {
		var buf bytes.Buffer
		io.Copy(&buf, pty) // EIO when the last holder of the terminal is gone
		shown <- buf.String()
	}()
	io.WriteString(pty, input)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	host.Until(t, "ctr ends", func() bool { return len(done) == 1 })
	pty.Close()
	return <-shown, cmd.ProcessState.ExitCode()
}

func TestExecOnATerminal(t *testing.T) {
	d, ref := start(t)
	d.Ctr(t, "run", "-d", ref, "term")
	defer remove(t, d, "term")
	out, code := terminal(t, d, "stty size; tty; exit 5\n", "t", "exec", "-t", "--exec-id", "1861", "term", "sh")
	if code != 5 || !strings.Contains(out, "40 100") || !strings.Contains(out, "/dev/pts/") {
		t.Errorf("exit code %d, terminal shows %q", code, out)
	}
}

func TestSignalsReachAForegroundContainer(t *testing.T) {
	d, ref := start(t)
	id := host.Unique("signal")
	cmd := exec.Command(filepath.Join(host.Bin(), "ctr"), "-a", d.Address, "run", "--rm", ref, id, "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, len("ready\n")))
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	empty(t, d)
}

func openTerminal(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
