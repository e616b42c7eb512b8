// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// options keeps the runtime's state inside of the world.
func (w *world) options(t testing.TB) *anypb.Any {
	t.Helper()
	data, err := proto.Marshal(&runcoptions.Options{Root: filepath.Join(w.dir, "runc"), BinaryName: os.Getenv(driverEnv)})
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: data}
}

func TestRunReportsOutputExitAndEventsInOrder(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "one", newSpec("sh", "-c", "echo out; echo err >&2; exit 3"))
	out, errs := b.fifo("out"), b.fifo("err")
	o, e := b.read(out), b.read(errs)
	pid := b.create(stdio{out: out, err: errs})
	if got := b.run(""); got != pid {
		t.Errorf("start returned pid %d, create %d", got, pid)
	}
	if got := b.wait(""); got != 3 {
		t.Errorf("exit status is %d, want 3", got)
	}
	if got := o.all(t); got != "out\n" {
		t.Errorf("stdout is %q", got)
	}
	if got := e.all(t); got != "err\n" {
		t.Errorf("stderr is %q", got)
	}
	if r := b.delete(""); r.Pid != pid || r.ExitStatus != 3 || r.ExitedAt == nil {
		t.Errorf("delete returned %v", r)
	}
	w.events.expect(t, "one", "create", "start", "exit one", "delete")
}

func TestFastExitsAreNotLost(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "fast", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	for i := range 200 {
		id := fmt.Sprintf("e%d", i)
		b.exec(id, stdio{}, "sh", "-c", fmt.Sprintf("exit %d", i%7))
		b.run(id)
		if got := b.wait(id); got != uint32(i%7) {
			t.Fatalf("exec %d: exit status is %d", i, got)
		}
		b.delete(id)
	}
	b.kill("", unix.SIGKILL)
	if got := b.wait(""); got != 137 {
		t.Errorf("exit status is %d, want 137", got)
	}
	want := []string{"create", "start"}
	for i := range 200 {
		id := fmt.Sprintf("e%d", i)
		want = append(want, "exec-added "+id, "exec-started "+id, "exit "+id)
	}
	w.events.expect(t, "fast", append(want, "exit fast")...)
}

func TestExitOfInitIsLast(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%v", shared), func(t *testing.T) {
			w := newWorld(t)
			s := newSpec("sleep", "1000")
			if shared {
				s["linux"].(spec)["namespaces"] = []spec{{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}
			}
			b := w.box(t, "last", s)
			b.create(stdio{})
			b.run("")
			for _, id := range []string{"x", "y"} {
				b.exec(id, stdio{}, "sleep", "1000")
				b.run(id)
			}
			b.kill("", unix.SIGKILL)
			if got := b.wait(""); got != 137 {
				t.Errorf("exit status is %d, want 137", got)
			}
			until(t, "three exits", func() bool {
				return strings.Count(strings.Join(w.events.topics(t, "last"), ","), "exit ") == 3
			})
			got := w.events.topics(t, "last")
			if got[len(got)-1] != "exit last" {
				t.Errorf("events are %v", got)
			}
			_, err := b.task.Start(b.ctx(), &task.StartRequest{ID: b.id, ExecID: "none"})
			if !errdefs.IsNotFound(errgrpc.ToNative(err)) {
				t.Errorf("start of an unknown exec: %v", err)
			}
		})
	}
}

func TestDeleteWaitsForTheKillOfWhatTheInitLeft(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc")
	}
	w := newWorld(t)
	slow := filepath.Join(w.dir, "slow")
	script := fmt.Sprintf(`#!/bin/sh
case " $* " in
*" kill --all "*)
	touch %[1]s/killing
	%[2]s "$@"
	sleep 0.5
	rm %[1]s/killing
	exit ;;
*" delete "*)
	[ ! -e %[1]s/killing ] || exit 1 ;;
esac
exec %[2]s "$@"
`, w.dir, runc)
	if err := os.WriteFile(slow, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(driverEnv, slow)
	s := newSpec("sleep", "1000")
	s["linux"].(spec)["namespaces"] = []spec{{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}
	b := w.box(t, "slow", s)
	b.create(stdio{})
	b.run("")
	b.exec("x", stdio{}, "sleep", "1000")
	b.run("x")
	b.kill("", unix.SIGKILL)
	b.wait("")
	b.delete("")
}

func TestExecAfterTheInitEnded(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "late", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	b.exec("x", stdio{}, "true")
	b.kill("", unix.SIGKILL)
	b.wait("")
	_, err := b.task.Start(b.ctx(), &task.StartRequest{ID: b.id, ExecID: "x"})
	if !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("start of an exec: %v, want a failed precondition", err)
	}
	_, err = b.task.Kill(b.ctx(), &task.KillRequest{ID: b.id, Signal: 9})
	if !errdefs.IsNotFound(errgrpc.ToNative(err)) || !strings.Contains(err.Error(), "process already finished") {
		t.Errorf("kill of a stopped container: %v", err)
	}
}

func TestStdinEnds(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "cat", newSpec("cat"))
	in, out := b.fifo("in"), b.fifo("out")
	o := b.read(out)
	b.create(stdio{in: in, out: out})
	b.run("")
	for _, part := range []string{"one\n", "two\n"} { // writers come and go
		f, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, part)
		f.Close()
		until(t, "echo of "+part, func() bool { return strings.HasSuffix(o.String(), part) })
	}
	if _, err := b.task.CloseIO(b.ctx(), &task.CloseIORequest{ID: b.id, Stdin: true}); err != nil {
		t.Fatal(err)
	}
	if got := b.wait(""); got != 0 {
		t.Errorf("exit status is %d", got)
	}
	if got := o.all(t); got != "one\ntwo\n" {
		t.Errorf("output is %q", got)
	}
}

func TestStdinEndsThatWasClosedBeforeTheStart(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "early", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	b.exec("x", stdio{in: b.fifo("in")}, "cat")
	if _, err := b.task.CloseIO(b.ctx(), &task.CloseIORequest{ID: b.id, ExecID: "x", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	b.run("x")
	if got := b.wait("x"); got != 0 {
		t.Errorf("exit status is %d", got)
	}
	b.kill("", unix.SIGKILL)
	b.wait("")
}

func TestReadersComeAndGo(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "gone", newSpec("cat"))
	in, out := b.fifo("in"), b.fifo("out")
	first := make(chan error, 1)
	go func() {
		f, err := os.Open(out)
		if err == nil {
			err = f.Close()
		}
		first <- err
	}()
	b.create(stdio{in: in, out: out})
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	b.run("")
	f, err := os.OpenFile(in, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	io.WriteString(f, "kept\n") // written without a reader
	o := b.read(out)
	until(t, "the second reader gets it", func() bool { return o.String() == "kept\n" })
	b.kill("", unix.SIGKILL)
	b.wait("")
	o.all(t)
}

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "tty", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	in, out := b.fifo("in"), b.fifo("out")
	o := b.read(out)
	b.exec("sh", stdio{in: in, out: out, terminal: true}, "sh")
	b.run("sh")
	if _, err := b.task.ResizePty(b.ctx(), &task.ResizePtyRequest{ID: b.id, ExecID: "sh", Width: 123, Height: 45}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(in, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	io.WriteString(f, "stty size; exit 7\n")
	if got := b.wait("sh"); got != 7 {
		t.Errorf("exit status is %d, want 7", got)
	}
	if got := o.all(t); !strings.Contains(got, "45 123\r\n") {
		t.Errorf("output is %q", got)
	}
	b.delete("sh")
	b.kill("", unix.SIGKILL)
	b.wait("")
}

func TestPauseAndStats(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "ice", newSpec("sleep", "1000"))
	pid := b.create(stdio{})
	_, err := b.task.Pause(b.ctx(), &task.PauseRequest{ID: b.id})
	if err == nil || !strings.Contains(err.Error(), "cannot pause task in created state") {
		t.Errorf("pause of a created task: %v", err)
	}
	b.run("")
	until(t, "the init has become the payload", func() bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return string(name) == "sleep\n"
	})
	if _, err := b.task.Pause(b.ctx(), &task.PauseRequest{ID: b.id}); err != nil {
		t.Fatal(err)
	}
	if got := b.status(""); got != tasktypes.Status_PAUSED {
		t.Errorf("status is %v", got)
	}
	if _, err := b.task.Delete(b.ctx(), &task.DeleteRequest{ID: b.id}); err == nil {
		t.Error("a paused task was deleted")
	}
	if _, err := b.task.Resume(b.ctx(), &task.ResumeRequest{ID: b.id}); err != nil {
		t.Fatal(err)
	}
	r, err := b.task.Stats(b.ctx(), &task.StatsRequest{ID: b.id})
	if err != nil {
		t.Fatal(err)
	}
	if r.Stats.TypeUrl == "io.containerd.cgroups.v1.Metrics" {
		var m cgroup1.Metrics
		if err := proto.Unmarshal(r.Stats.Value, &m); err != nil {
			t.Fatal(err)
		}
		if m.Pids.GetCurrent() != 1 || m.Memory.GetUsage().GetUsage() == 0 || m.CPU.GetUsage().GetTotal() == 0 {
			t.Errorf("metrics are %v", &m)
		}
	}
	resources := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: []byte(`{"pids":{"limit":77}}`)}
	if _, err := b.task.Update(b.ctx(), &task.UpdateTaskRequest{ID: b.id, Resources: resources}); err != nil {
		t.Errorf("update: %v", err)
	}
	b.kill("", unix.SIGKILL)
	b.wait("")
	w.events.expect(t, "ice", "create", "start", "paused", "resumed", "exit ice")
}

func (b *box) status(exec string) tasktypes.Status {
	b.t.Helper()
	r, err := b.task.State(b.ctx(), &task.StateRequest{ID: b.id, ExecID: exec})
	if err != nil {
		b.t.Fatal(err)
	}
	return r.Status
}

func TestPidsNameExecs(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "ps", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	b.exec("x", stdio{}, "sleep", "1000")
	pid := b.run("x")
	r, err := b.task.Pids(b.ctx(), &task.PidsRequest{ID: b.id})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range r.Processes {
		if p.Pid != pid {
			continue
		}
		var d runcoptions.ProcessDetails
		if err := p.Info.UnmarshalTo(&d); err != nil || d.ExecID != "x" {
			t.Errorf("process %d: %v, %v", p.Pid, &d, err)
		}
		found = true
	}
	if !found || len(r.Processes) != 2 {
		t.Errorf("processes are %v", r.Processes)
	}
	b.kill("x", unix.SIGTERM)
	if got := b.wait("x"); got != 143 {
		t.Errorf("exit status is %d, want 143", got)
	}
	b.kill("", unix.SIGKILL)
	b.wait("")
}

func TestDeleteOfACreatedTask(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "new", newSpec("sleep", "1000"))
	b.create(stdio{})
	if r := b.delete(""); r.ExitStatus != 137 {
		t.Errorf("exit status is %d, want 137", r.ExitStatus)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "bad", newSpec("no-such-program"))
	_, err := b.task.Create(b.ctx(), &task.CreateTaskRequest{ID: b.id, Bundle: b.bundle, Options: b.options, Rootfs: b.rootfs()})
	if err == nil || !strings.Contains(err.Error(), "OCI runtime create failed: ") || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("create: %v", err)
	}
	if m := w.mounts(); m != "" {
		t.Errorf("mounts are left:\n%s", m)
	}
	if _, err := b.task.State(b.ctx(), &task.StateRequest{ID: b.id}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("state: %v, want not found", err)
	}
}

func TestLackOfMemoryIsAnEvent(t *testing.T) {
	w := newWorld(t)
	s := newSpec("sh", "-c", "x=x; while :; do x=$x$x; done")
	s["linux"].(spec)["resources"] = spec{"memory": spec{"limit": 8 << 20}}
	b := w.box(t, "oom", s)
	if b.create(stdio{}); b.stats() == "" {
		t.Skip("needs a memory controller")
	}
	b.run("")
	b.wait("")
	until(t, "the event", func() bool { return slices.Contains(w.events.topics(t, "oom"), "oom") })
}

// stats returns the type of the metrics, nothing if the container has none.
func (b *box) stats() string {
	b.t.Helper()
	r, err := b.task.Stats(b.ctx(), &task.StatsRequest{ID: b.id})
	if err != nil {
		return ""
	}
	return r.Stats.TypeUrl
}

func TestProcessesStartWithDefaultSignals(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "sig", newSpec("cat", "/proc/self/status"))
	out := b.fifo("out")
	o := b.read(out)
	b.create(stdio{out: out})
	b.run("")
	b.wait("")
	status := o.all(t)
	for _, want := range []string{"SigBlk:\t0000000000000000\n", "SigIgn:\t0000000000000000\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("the status has no %q:\n%s", want, status)
		}
	}
}

func TestVersion2IsServedToo(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "v2", newSpec("true"))
	var r task.ConnectResponse
	if err := b.conn.Call(b.ctx(), "containerd.task.v2.Task", "Connect", &task.ConnectRequest{ID: b.id}, &r); err != nil {
		t.Fatal(err)
	}
	if r.ShimPid != b.shim() || r.Version == "" {
		t.Errorf("connect returned %v", &r)
	}
}

func TestExecsSideBySide(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "many", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	var all sync.WaitGroup
	for i := range 20 {
		id := fmt.Sprintf("e%d", i)
		b.exec(id, stdio{}, "sh", "-c", fmt.Sprintf("exit %d", i))
		all.Go(func() {
			if _, err := b.task.Start(b.ctx(), &task.StartRequest{ID: b.id, ExecID: id}); err != nil {
				t.Errorf("start %s: %v", id, err)
				return
			}
			r, err := b.task.Wait(b.ctx(), &task.WaitRequest{ID: b.id, ExecID: id})
			if err != nil || r.ExitStatus != uint32(i) {
				t.Errorf("exit of %s: %v, %v", id, r, err)
			}
		})
	}
	all.Wait()
	b.kill("", unix.SIGKILL)
	b.wait("")
	got := w.events.topics(t, "many")
	until(t, "the exit of the init", func() bool {
		got = w.events.topics(t, "many")
		return got[len(got)-1] == "exit many"
	})
	for i := range 20 {
		start, end := slices.Index(got, fmt.Sprintf("exec-started e%d", i)), slices.Index(got, fmt.Sprintf("exit e%d", i))
		if start < 0 || end < start {
			t.Errorf("exec %d: the start is event %d, the exit %d", i, start, end)
		}
	}
}
