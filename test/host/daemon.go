// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Options says which daemon to start, and how. The zero value is ours.
type Options struct {
	Bin    string   // directory of the commands, Bin() if empty
	Dir    string   // for root, state and sockets; a temporary one if empty
	Config string   // more of config.toml, appended
	Env    []string // added to its environment
	Wrap   []string // command that the daemon and ctr are arguments of, and which must become them
}

// A Daemon is a containerd with its own root, state and sockets below Dir.
// When the test ends its tasks are killed, its containers removed, and it is
// stopped.
type Daemon struct {
	Dir     string
	Address string
	Bin     string
	opts    Options
	cmd     *exec.Cmd
	done    chan error
	stopped bool // by the test: whoever has its root now cleans up
}

// Start starts a daemon and waits until it answers.
func Start(t testing.TB, opts Options) *Daemon {
	t.Helper()
	if opts.Bin == "" {
		NeedBuilt(t)
		opts.Bin = Bin()
	}
	if opts.Dir == "" {
		opts.Dir = TempDir(t)
	}
	d := &Daemon{Dir: opts.Dir, Address: filepath.Join(opts.Dir, "c.sock"), Bin: opts.Bin, opts: opts}
	t.Cleanup(func() { d.finish(t) })
	d.Run(t)
	return d
}

// config writes config.toml and returns its path.
func (d *Daemon) config(t testing.TB) string {
	sockets := filepath.Join(d.Dir, "s")
	if err := os.MkdirAll(sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`version = 4
root = %q
state = %q
%s
[plugins."io.containerd.server.v1.grpc"]
  address = %q
[plugins."io.containerd.server.v1.ttrpc"]
  address = %q
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = %q
`, filepath.Join(d.Dir, "root"), filepath.Join(d.Dir, "state"), d.opts.Config, d.Address, d.Address+".ttrpc", sockets)
	file := filepath.Join(d.Dir, "config.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Run starts the daemon, again if it was stopped, and waits until it answers.
func (d *Daemon) Run(t testing.TB) {
	t.Helper()
	d.Launch(t)
	Until(t, "the daemon answers", func() bool {
		if d.Ended() {
			t.Fatalf("containerd ended: %v\n%s", d.cmd.ProcessState, d.Tail())
		}
		return Exec(t, nil, "", filepath.Join(d.ctrDir(), "ctr"), "-a", d.Address, "version").Code == 0
	})
}

// Launch is Run that does not wait.
func (d *Daemon) Launch(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(d.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	line := d.wrap(filepath.Join(d.Bin, "containerd"), "--config", d.config(t))
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(append(os.Environ(), d.Path()), d.opts.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait(); close(done) }()
	d.cmd, d.done, d.stopped = cmd, done, false
}

// Setenv replaces what Options.Env adds to the environment, from the next Run on.
func (d *Daemon) Setenv(env ...string) { d.opts.Env = env }

// Path is the PATH with the commands of this daemon first.
func (d *Daemon) Path() string { return "PATH=" + d.Bin + ":" + os.Getenv("PATH") }

// ctrDir is where ctr is: an older system's daemon is spoken to by ours.
func (d *Daemon) ctrDir() string {
	if _, err := os.Stat(filepath.Join(d.Bin, "ctr")); err != nil {
		return Bin()
	}
	return d.Bin
}

// Pid is the process id of the daemon.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Log is the file that the daemon logs into.
func (d *Daemon) Log() string { return filepath.Join(d.Dir, "containerd.log") }

// Tail returns the end of the daemon's log.
func (d *Daemon) Tail() string {
	text, _ := os.ReadFile(d.Log())
	return string(text[max(0, len(text)-4096):])
}

// Kill ends the daemon as a crash would.
func (d *Daemon) Kill(t testing.TB) { t.Helper(); d.end(t, syscall.SIGKILL) }

// Stop ends the daemon as systemd would. Containers go on.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	d.end(t, syscall.SIGTERM)
	d.stopped = true
}

func (d *Daemon) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	d.cmd.Process.Signal(sig)
	Until(t, "the daemon ends", d.Ended)
}

// Ended says whether the daemon's process is gone.
func (d *Daemon) Ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// wrap is a command line with what it is wrapped in.
func (d *Daemon) wrap(line ...string) []string { return append(slices.Clone(d.opts.Wrap), line...) }

// Try runs our ctr against the daemon, whichever that is.
func (d *Daemon) Try(t testing.TB, args ...string) Result {
	t.Helper()
	return d.Input(t, "", args...)
}

// Input is Try with an input.
func (d *Daemon) Input(t testing.TB, input string, args ...string) Result {
	t.Helper()
	line := d.wrap(append([]string{filepath.Join(Bin(), "ctr"), "-a", d.Address}, args...)...)
	return Exec(t, nil, input, line[0], line[1:]...)
}

// Ctr runs a command of our ctr that must succeed, and returns its stdout.
func (d *Daemon) Ctr(t testing.TB, args ...string) string {
	t.Helper()
	r := d.Try(t, args...)
	if r.Code != 0 {
		t.Fatalf("ctr %s: exit code %d\n%s%s\n%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr, d.Tail())
	}
	return r.Stdout
}

// finish removes what runs and stops the daemon.
func (d *Daemon) finish(t testing.TB) {
	if d.cmd == nil || d.stopped {
		return
	}
	if d.Ended() {
		d.Run(t)
	}
	for _, ns := range strings.Fields(d.Try(t, "ns", "ls", "-q").Stdout) {
		for _, id := range strings.Fields(d.Try(t, "-n", ns, "t", "ls", "-q").Stdout) {
			d.Try(t, "-n", ns, "t", "rm", "-f", id)
		}
		for _, id := range strings.Fields(d.Try(t, "-n", ns, "c", "ls", "-q").Stdout) {
			d.Try(t, "-n", ns, "c", "rm", id)
		}
	}
	d.Stop(t)
	if t.Failed() {
		t.Logf("the daemon's log:\n%s", d.Tail())
	}
}
