// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/resident"
)

// builtinWorld is for what only the built-in driver promises.
func builtinWorld(t *testing.T) *world {
	t.Helper()
	if os.Getenv(driverEnv) != "" {
		t.Skip("it is about the built-in driver")
	}
	return newWorld(t)
}

// cgroups lists the groups of the test's containers.
func (w *world) cgroups() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		list, _ := filepath.Glob(pattern + w.ns + "-*")
		all = append(all, list...)
	}
	return all
}

// create1 asks for the container of b.
func (b *box) create1() error {
	_, err := b.task.Create(b.ctx(), &task.CreateTaskRequest{ID: b.id, Bundle: b.bundle, Options: b.options, Rootfs: b.rootfs()})
	return err
}

// TestKilledInTheRuntime kills the shim at each step of the creation that
// happens in its own process.
func TestKilledInTheRuntime(t *testing.T) {
	for _, point := range []string{"claimed", "recorded", "cgroup", "forked", "started", "hooks", "ready"} {
		t.Run(point, func(t *testing.T) {
			w := builtinWorld(t)
			w.env = []string{"SLIPWAY_FAULT=runtime.create." + point}
			s := newSpec("true")
			s["hooks"] = spec{"prestart": []spec{{"path": "/bin/true"}}}
			if point == "forked" { // where the runtime has to act on the process
				l := s["linux"].(spec)
				l["namespaces"] = append(l["namespaces"].([]spec), spec{"type": "user"})
				l["uidMappings"] = []spec{{"containerID": 0, "hostID": 0, "size": 1000}}
				l["gidMappings"] = l["uidMappings"]
			}
			b := w.box(t, "cut", s)
			if err := b.create1(); err == nil {
				t.Error("the shim did not die")
			}
			b.deleteAct()
			if left := w.cgroups(); len(left) > 0 {
				t.Errorf("control groups are left: %v", left)
			}
		})
	}
}

func TestALifeTakesTwoExecutions(t *testing.T) {
	w := builtinWorld(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace")
	}
	b := w.box(t, "seed", newSpec("true")) // the shim of another container
	count := &box{world: w, t: t, id: "count", bundle: b.bundle, options: b.options}
	trace := filepath.Join(w.dir, "trace")
	in, err := proto.Marshal(w.params(count.id, count.options))
	if err != nil {
		t.Fatal(err)
	}
	cmd := count.act(nil, []string{resident.Env + "=1"}, "start")
	cmd.Args = append([]string{strace, "-f", "-qq", "-e", "trace=execve,execveat", "-o", trace, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Stdin = strace, strings.NewReader(string(in))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 4096)
	n, err := out.Read(reply)
	var r bootstrap.BootstrapResult
	if err != nil || proto.Unmarshal(reply[:n], &r) != nil || r.Metadata[resident.Key] == "" {
		t.Fatalf("start printed %q, %v", reply[:n], err)
	}
	count.address = r.Address
	count.dial()
	count.create(stdio{})
	count.run("")
	count.wait("")
	count.delete("")
	count.end()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), " = 0\n"); n != 3 { // the third is the payload
		t.Errorf("%d executions:\n%s", n, data)
	}
}

// commands are the programs called runc that there are.
func commands(t *testing.T) (list []string) {
	t.Helper()
	for _, name := range []string{"../bin/runc", "../.cache/peers/runc"} {
		if path, err := exec.LookPath(name); err == nil || errors.Is(err, exec.ErrDot) {
			list = append(list, path)
		}
	}
	if len(list) == 0 {
		t.Skip("needs runc: run make build or make setup")
	}
	return list
}

func TestCommandsHandleAContainerOfTheShim(t *testing.T) {
	for _, command := range commands(t) {
		t.Run(command, func(t *testing.T) {
			w := builtinWorld(t)
			b := w.box(t, "seen", newSpec("sleep", "1000"))
			pid := b.create(stdio{})
			runc := func(args ...string) string {
				t.Helper()
				out, err := exec.Command(command, append([]string{"--root", filepath.Join(w.dir, "runc", w.ns)}, args...)...).CombinedOutput()
				if err != nil {
					t.Errorf("runc %v: %v: %s", args, err, out)
				}
				return string(out)
			}
			if s := runc("state", b.id); !strings.Contains(s, `"status": "created"`) || !strings.Contains(s, fmt.Sprint(pid)) {
				t.Errorf("state: %s", s)
			}
			b.run("")
			if out := runc("list", "-q"); out != "seen\n" {
				t.Errorf("list: %q", out)
			}
			if out := runc("exec", b.id, "echo", "hi"); out != "hi\n" {
				t.Errorf("exec: %q", out)
			}
			runc("kill", b.id, "KILL")
			if got := b.wait(""); got != 137 {
				t.Errorf("exit status is %d", got)
			}
			runc("delete", b.id)
			b.delete("")
		})
	}
}

func TestUpstreamsShimCleansUp(t *testing.T) {
	peer, err := filepath.Abs("../.cache/peers/containerd-shim-runc-v2")
	if _, serr := os.Stat(peer); err != nil || serr != nil {
		t.Skip("needs upstream's shim: run make setup")
	}
	w := builtinWorld(t)
	b := w.box(t, "moved", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	unix.Kill(int(b.shim()), unix.SIGKILL)
	cmd := exec.Command(peer, "-namespace", w.ns, "-address", filepath.Join(w.dir, "grpc"), "-id", b.id, "-bundle", b.bundle, "delete")
	cmd.Dir = b.bundle
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(peer)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("upstream's delete: %v: %s", err, out)
	}
	if left := w.cgroups(); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
	os.Remove(socketPath(b))
}

func socketPath(b *box) string { return strings.TrimPrefix(b.address, "unix://") }

func TestErrorsAreThoseThatClientsKnow(t *testing.T) {
	w := builtinWorld(t)
	bad := w.box(t, "bad", newSpec("nosuch"))
	const reason = `exec: "nosuch": executable file not found in $PATH`
	err := bad.create1()
	if want := "OCI runtime create failed: runc create failed: unable to start container process: error during container init: " + reason; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("create: %v", err)
	}
	b := w.box(t, "good", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	b.exec("x", stdio{}, "nosuch")
	_, err = b.task.Start(b.ctx(), &task.StartRequest{ID: b.id, ExecID: "x"})
	if want := "OCI runtime exec failed: exec failed: unable to start container process: " + reason; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("exec: %v", err)
	}
	b.kill("", unix.SIGKILL)
	b.wait("")
}

func TestNoMountOfAContainerIsOnTheHost(t *testing.T) {
	w := builtinWorld(t)
	b := w.box(t, "hidden", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	if m := w.mounts(); m != "" {
		t.Errorf("the host has\n%s", m)
	}
	b.kill("", unix.SIGKILL)
	b.wait("")
}

func TestHooksOfTheHostSeeTheRoot(t *testing.T) {
	w := newWorld(t)
	log := filepath.Join(w.dir, "hooks")
	hooks := spec{}
	for _, name := range []string{"prestart", "createRuntime", "poststart", "poststop"} {
		script := fmt.Sprintf("ls %s/b/hooked/rootfs/bin/busybox >/dev/null && echo %s >>%s", w.dir, name, log)
		hooks[name] = []spec{{"path": "/bin/sh", "args": []string{"sh", "-c", script}}}
	}
	s := newSpec("true")
	s["hooks"] = hooks
	b := w.box(t, "hooked", s)
	b.create(stdio{})
	b.run("")
	b.wait("")
	b.delete("")
	if data, _ := os.ReadFile(log); string(data) != "prestart\ncreateRuntime\npoststart\npoststop\n" {
		t.Errorf("these hooks ran: %q", data)
	}
	s["hooks"] = spec{"prestart": []spec{{"path": "/bin/sh", "args": []string{"sh", "-c", "exit 7"}}}}
	failing := w.box(t, "failing", s)
	if err := failing.create1(); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("create: %v", err)
	}
	if m := w.mounts(); m != "" {
		t.Errorf("mounts are left:\n%s", m)
	}
}

func TestAContainerInTheMountNamespaceOfTheHost(t *testing.T) {
	w := builtinWorld(t)
	s := newSpec("sh", "-c", "test -e /proc/1/status && exit 7")
	s["linux"].(spec)["namespaces"] = []spec{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}}
	b := w.box(t, "shared", s)
	b.create(stdio{})
	if m := w.mounts(); !strings.Contains(m, "shared/rootfs/proc") {
		t.Errorf("the host has\n%s", m)
	}
	b.run("")
	if status := b.wait(""); status != 7 {
		t.Errorf("status %d", status)
	}
	b.delete("")
	if m := w.mounts(); m != "" {
		t.Errorf("mounts are left:\n%s", m)
	}
}

func TestDeleteBesideAStoppedShim(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "stuck", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	shim := int(b.shim())
	unix.Kill(shim, unix.SIGSTOP)
	defer unix.Kill(shim, unix.SIGKILL)
	b.deleteAct()
	if left := w.cgroups(); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
	unix.Kill(shim, unix.SIGKILL)
	until(t, "the shim is gone", func() bool { return unix.Kill(shim, 0) != nil })
	os.Remove(socketPath(b))
}

func TestCheckpointAndRestore(t *testing.T) {
	if _, err := exec.LookPath("criu"); err != nil {
		t.Skip("needs criu")
	}
	w := builtinWorld(t)
	b := w.box(t, "before", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	options, err := anypb.New(&runcoptions.CheckpointOptions{Exit: true, WorkPath: filepath.Join(w.dir, "work")})
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(w.dir, "checkpoint")
	if _, err := b.task.Checkpoint(b.ctx(), &task.CheckpointTaskRequest{ID: b.id, Path: image, Options: options}); err != nil {
		if exec.Command("criu", "check").Run() != nil {
			b.kill("", unix.SIGKILL)
			b.wait("")
			t.Skip("criu does not work here: ", err)
		}
		t.Fatal(err)
	}
	b.wait("")
	b.delete("")
	again := w.box(t, "after", newSpec("sleep", "1000"))
	if _, err := again.task.Create(again.ctx(), &task.CreateTaskRequest{
		ID: again.id, Bundle: again.bundle, Options: again.options, Rootfs: again.rootfs(), Checkpoint: image,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := again.task.State(again.ctx(), &task.StateRequest{ID: again.id}); err != nil {
		t.Error(err)
	}
	pid := again.run("")
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(name) != "sleep\n" {
		t.Errorf("process %d is %q, %v", pid, name, err)
	}
	again.kill("", unix.SIGKILL)
	if got := again.wait(""); got != 137 {
		t.Errorf("exit status is %d", got)
	}
}

// TestFeaturesAreThoseOfTheDriver reads what info prints.
func TestFeaturesAreThoseOfTheDriver(t *testing.T) {
	w := builtinWorld(t)
	b := w.box(t, "features", newSpec("true"))
	var f struct{ Hooks []string }
	if err := json.Unmarshal(b.info().Features.GetValue(), &f); err != nil || len(f.Hooks) != 6 {
		t.Errorf("features: %v, %v", f, err)
	}
}
