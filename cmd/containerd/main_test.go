// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
	"slipway/internal/version"
)

// deadline bounds every wait of these tests.
const deadline = 60 * time.Second

// TestMain is the command itself when the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("CONTAINERD_TEST_MAIN") == "" {
		os.Exit(m.Run())
	}
	main()
	os.Exit(0)
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "CONTAINERD_TEST_MAIN=1")
	return cmd
}

// output runs the command and returns what it printed and its exit code.
func output(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestVersionIsPrintedAsUpstreams(t *testing.T) {
	want := fmt.Sprintf("containerd github.com/containerd/containerd/v2 %s %s\n", version.Version, version.Revision)
	for _, flag := range []string{"--version", "-v", "-version"} {
		if out, _, code := output(t, flag); out != want || code != 0 {
			t.Errorf("%s prints %q, exit %d", flag, out, code)
		}
	}
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{{"--bogus"}, {"serve"}, {"config"}, {"config", "lint"}, {"publish"}, {"oci-hook"}} {
		if _, errs, code := output(t, args...); code != 1 || !strings.HasPrefix(errs, "containerd: ") {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
	if out, _, code := output(t, "--help"); code != 0 || !strings.Contains(out, "config check") {
		t.Errorf("help: exit %d, %q", code, out)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestConfigCheckFailsForWhatIsInVain(t *testing.T) {
	file := write(t, "version = 4\nroooot = '/x'\n")
	out, _, code := output(t, "-c", file, "config", "check")
	if code != 1 || !strings.Contains(out, file+":2: unknown key roooot") {
		t.Errorf("exit %d, %q", code, out)
	}
	if out, errs, code := output(t, "-c", write(t, "version = 4\nroot = '/x'\n"), "config", "check"); code != 0 {
		t.Errorf("a good file: exit %d, %q, %q", code, out, errs)
	}
	if _, errs, code := output(t, "-c", write(t, "version = 4\nroot = 5\n"), "config", "dump"); code != 1 || !strings.Contains(errs, "config.toml:2: ") {
		t.Errorf("a broken file: exit %d, %q", code, errs)
	}
}

func TestANamedFileMustExist(t *testing.T) {
	file := filepath.Join(t.TempDir(), "absent.toml")
	if _, errs, code := output(t, "-c", file); code != 1 || !strings.Contains(errs, file) {
		t.Errorf("exit %d, %q", code, errs)
	}
	if out, _, code := output(t, "-c", file, "config", "dump"); code != 0 || !strings.Contains(out, "version = 4") {
		t.Errorf("dump: exit %d, %q", code, out)
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	file := write(t, "version = 4\nroot = '/x'\n")
	out, _, code := output(t, "--config", file, "--root", "/flag", "--state", "/s", "-l", "trace", "-a", "/a.sock", "config", "dump")
	for _, want := range []string{"root = '/flag'", "state = '/s'", "level = 'trace'", "address = '/a.sock'", "address = '/a.sock.ttrpc'"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d, no %s", code, want)
		}
	}
}

// serving starts the command in dir and returns when it serves, with its
// address and its log.
func serving(t *testing.T, dir string) (*exec.Cmd, string, *bufio.Scanner) {
	t.Helper()
	address := filepath.Join(dir, "c.sock")
	cmd := command("-c", write(t, "version = 4\n"), "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "-a", address, "-l", "debug")
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20) // a stack dump is one line
	expect(t, lines, "READY=1")
	return cmd, address, lines
}

// expect reads the log until a line holds text.
func expect(t *testing.T, lines *bufio.Scanner, text string) {
	t.Helper()
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return
		}
	}
	t.Fatalf("the log ends before %q: %v", text, lines.Err())
}

func shortDir(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("sockets that belong to root need root")
	}
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSignals(t *testing.T) {
	dir := shortDir(t)
	cmd, address, lines := serving(t, dir)
	c, err := client.Dial(t.Context(), address, client.Options{Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sub, err := c.Events().Subscribe(t.Context(), &eventsapi.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	expect(t, lines, "BEGIN goroutine stack dump")
	expect(t, lines, "goroutine stack dump written to "+dir)
	dump, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("containerd.%d.stacks.log", cmd.Process.Pid)))
	if err != nil || !bytes.Contains(dump, []byte("goroutine ")) {
		t.Errorf("stacks: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect(t, lines, "STOPPING=1")
	if _, err := sub.Recv(); err == nil {
		t.Error("the subscription goes on")
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if _, err := os.Stat(address); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestPublish(t *testing.T) {
	_, address, _ := serving(t, shortDir(t))
	c, err := client.Dial(t.Context(), address, client.Options{Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sub, err := c.Events().Subscribe(t.Context(), &eventsapi.SubscribeRequest{Filters: []string{"topic==/tasks/oom"}})
	if err != nil {
		t.Fatal(err)
	}
	event, err := proto.Marshal(&anypb.Any{TypeUrl: "x", Value: []byte("y")})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		e, err := sub.Recv()
		if err == nil && (e.Namespace != "n" || e.Event.TypeUrl != "x") {
			err = fmt.Errorf("got %v", e)
		}
		got <- err
	}()
	for end := time.Now().Add(deadline); ; { // the subscription may begin late
		cmd := command("--address", address, "publish", "--namespace", "n", "--topic", "/tasks/oom")
		cmd.Stdin = bytes.NewReader(event)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		select {
		case err := <-got:
			if err != nil {
				t.Error(err)
			}
			return
		default:
			if time.Now().After(end) {
				t.Fatal("no event arrives")
			}
		}
	}
}

func TestHookArgumentsAreTemplates(t *testing.T) {
	bundle := t.TempDir()
	spec, err := json.Marshal(specs.Spec{Root: &specs.Root{Path: "rootfs"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o600); err != nil {
		t.Fatal(err)
	}
	state, err := json.Marshal(specs.State{ID: "c1", Pid: 7, Bundle: bundle, Status: specs.StateCreated, Annotations: map[string]string{"k": "v w"}})
	if err != nil {
		t.Fatal(err)
	}
	script := `echo "$0|$1|$2|$3|$4"; cat`
	cmd := command("oci-hook", "--", "sh", "-c", script, "{{id}}", "p{{ pid }}", "{{rootfs}}/x", `{{annotation "k"}}`, "{{status}}")
	cmd.Stdin = bytes.NewReader(state)
	out, err := cmd.Output()
	if want := "c1|p7|" + bundle + "/rootfs/x|v w|created\n" + string(state); err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
	cmd = command("oci-hook", "true", "{{name}}")
	cmd.Stdin = bytes.NewReader(state)
	if err := cmd.Run(); err == nil {
		t.Error("an unknown template is accepted")
	}
	cmd = command("oci-hook", "true")
	cmd.Stdin = io.LimitReader(bytes.NewReader(state), 5)
	if err := cmd.Run(); err == nil {
		t.Error("half a state is accepted")
	}
}
