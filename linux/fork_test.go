// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// run executes a shell command by f and returns what it printed.
func run(t *testing.T, f *Fork, command string) (string, error) {
	t.Helper()
	sh, err := os.Open("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	defer sh.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	pid, err := f.Exec(sh, []string{"sh", "-c", command}, os.Environ(), []*os.File{null, w, w})
	w.Close()
	if err != nil {
		return "", err
	}
	out, _ := io.ReadAll(r)
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil || ws.ExitStatus() != 0 {
		t.Errorf("%s: status %d, %v: %s", command, ws.ExitStatus(), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func namespace(t *testing.T, pid int, name string) *os.File {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// holder is a process in new namespaces.
func holder(t *testing.T, flags uintptr) int {
	t.Helper()
	hold := exec.Command("sleep", "100")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1}}
	hold.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		hold.SysProcAttr.UidMappings, hold.SysProcAttr.GidMappings = ids, ids
		hold.SysProcAttr.Credential = &syscall.Credential{NoSetGroups: true}
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Process.Kill(); hold.Wait() })
	return hold.Process.Pid
}

func TestForkMakesNamespacesAndWaitsForReady(t *testing.T) {
	needRoot(t)
	var ready int
	f := Fork{Flags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWUTS}
	f.Ready = func(pid int) error {
		ready = pid
		for _, name := range []string{"uid_map", "gid_map"} {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, name), []byte("0 100000 1"), 0); err != nil {
				return err
			}
		}
		return nil
	}
	f.Wait()
	f.Root()
	got, err := run(t, &f, "hostname box; echo $$ $(id -u) $(id -g) $(hostname)")
	if err != nil || got != "1 0 0 box" {
		t.Errorf("got %q, %v; want pid 1, root, in its own host name", got, err)
	}
	if ready == 0 {
		t.Error("Ready was not called")
	}
}

func TestForkReadyFails(t *testing.T) {
	want := errors.New("no")
	f := Fork{Ready: func(int) error { return want }}
	f.Wait()
	if _, err := run(t, &f, "echo ran"); err != want {
		t.Errorf("error is %v, want Ready's", err)
	}
}

func TestForkJoinsUserAndPidNamespaces(t *testing.T) {
	needRoot(t)
	pid := holder(t, unix.CLONE_NEWUSER|unix.CLONE_NEWPID|unix.CLONE_NEWUTS)
	want, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
	f := Fork{}
	f.Setns(namespace(t, pid, "user"), unix.CLONE_NEWUSER)
	f.Setns(namespace(t, pid, "pid"), unix.CLONE_NEWPID)
	f.Setns(namespace(t, pid, "uts"), unix.CLONE_NEWUTS)
	f.Again(0)
	f.Root()
	got, err := run(t, &f, "readlink /proc/self/ns/user; id -u; test $$ -lt 10 && echo low")
	if err != nil || got != want+"\n0\nlow" {
		t.Errorf("got %q, %v; want root of %s", got, err, want)
	}
}

func TestForkNamesTheCallThatFails(t *testing.T) {
	f := Fork{}
	f.Setns(os.Stdin, unix.CLONE_NEWNET)
	_, err := run(t, &f, "true")
	if !errors.Is(err, unix.EINVAL) || !strings.HasPrefix(err.Error(), "setns /dev/stdin: ") {
		t.Errorf("error is %v, want EINVAL of setns", err)
	}
}

func TestForkRetriesARefusedJoin(t *testing.T) {
	needRoot(t)
	pid := holder(t, unix.CLONE_NEWUSER|unix.CLONE_NEWUTS)
	f := Fork{}
	later := f.SetnsEither(namespace(t, pid, "uts"), unix.CLONE_NEWUTS)
	f.Setns(namespace(t, pid, "user"), unix.CLONE_NEWUSER)
	later()
	f.Root()
	want, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if got, err := run(t, &f, "readlink /proc/self/ns/uts"); err != nil || got != want {
		t.Errorf("got %q, %v; want %s", got, err, want)
	}
}

func TestForkTimeNamespace(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("needs time namespaces (Linux 5.6)")
	}
	proc, err := Open("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	f := Fork{}
	f.NewTime(proc, "boottime 864000000 0\n")
	got, err := run(t, &f, "cut -d. -f1 /proc/uptime")
	if err != nil || len(got) < 9 {
		t.Errorf("up for %q seconds, %v; want more than 864000000", got, err)
	}
}

func TestMemfdIsSealed(t *testing.T) {
	f, err := Memfd("x", []byte("data"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("!"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing gives %v, want EPERM", err)
	}
}

func TestMessagesCarryFiles(t *testing.T) {
	a, b, err := SocketPair("pair")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := Send(a, []byte("hello"), a, b); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	n, files, err := Receive(b, buf)
	if err != nil || string(buf[:n]) != "hello" || len(files) != 2 {
		t.Errorf("received %q and %d files, %v", buf[:n], len(files), err)
	}
	closeAll(files)
	Send(a, make([]byte, 100))
	if _, _, err := Receive(b, buf); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a long message gives %v, want EMSGSIZE", err)
	}
}
