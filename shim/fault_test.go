// SPDX-License-Identifier: Apache-2.0

package shim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// deleteAct runs the delete act and returns what it printed.
func (b *box) deleteAct() *task.DeleteResponse {
	b.t.Helper()
	out, err := b.act(nil, nil, "-bundle", b.bundle, "delete").Output()
	if err != nil {
		b.t.Fatalf("delete: %v", err)
	}
	var r task.DeleteResponse
	if err := proto.Unmarshal(out, &r); err != nil {
		b.t.Fatalf("delete printed %q: %v", out, err)
	}
	return &r
}

func TestDeleteCleansUpAfterAKilledShim(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "dead", newSpec("sleep", "1000"))
	pid := b.create(stdio{})
	b.run("")
	b.exec("x", stdio{}, "sleep", "1000")
	b.run("x")
	unix.Kill(int(b.shim()), unix.SIGKILL)
	if r := b.deleteAct(); r.Pid != pid || r.ExitStatus != 137 || r.ExitedAt == nil {
		t.Errorf("delete printed %v", r)
	}
	if m := w.mounts(); m != "" {
		t.Errorf("mounts are left:\n%s", m)
	}
	b.deleteAct() // again: nothing is there
}

// TestKilledAtAnyStep kills the shim at each durable step of a life.
func TestKilledAtAnyStep(t *testing.T) {
	for _, point := range []string{"shim.create.mounted", "shim.create.created", "shim.delete.deleted"} {
		t.Run(point, func(t *testing.T) {
			w := newWorld(t)
			w.env = []string{"SLIPWAY_FAULT=" + point}
			b := w.box(t, "cut", newSpec("true"))
			_, err := b.task.Create(b.ctx(), &task.CreateTaskRequest{ID: b.id, Bundle: b.bundle, Options: b.options, Rootfs: b.rootfs()})
			if strings.HasPrefix(point, "shim.delete") {
				b.run("")
				b.wait("")
				_, err = b.task.Delete(b.ctx(), &task.DeleteRequest{ID: b.id})
			}
			if err == nil {
				t.Error("the shim did not die")
			}
			b.deleteAct()
		})
	}
}

func TestReplyFitsTheDaemon(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "old", newSpec("true"))
	path := strings.TrimPrefix(b.address, "unix://")
	options, err := proto.Marshal(b.options)
	if err != nil {
		t.Fatal(err)
	}
	// Without parameters the directory of sockets is the default one: have the
	// live shim answer there.
	const dir = "/run/containerd/s"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Skip(err)
	}
	link := filepath.Join(dir, filepath.Base(path))
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(link)
	for _, tt := range []struct {
		name string
		env  []string
		want string
	}{
		{"since 1.7", []string{"MAX_SHIM_VERSION=2"}, fmt.Sprintf(`{"version":2,"address":"unix://%s","protocol":"ttrpc"}`, link)},
		{"before", []string{"MAX_SHIM_VERSION="}, "unix://" + link},
	} {
		out, err := b.act(bytes.NewReader(options), tt.env, "start").CombinedOutput()
		if err != nil || string(out) != tt.want {
			t.Errorf("%s: start printed %q, %v; want %q", tt.name, out, err, tt.want)
		}
	}
}

// info runs the shim for what it is.
func (b *box) info() *types.RuntimeInfo {
	b.t.Helper()
	in, err := proto.Marshal(b.options)
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := b.act(bytes.NewReader(in), nil, "-info").Output()
	if err != nil {
		b.t.Fatal(err)
	}
	r := &types.RuntimeInfo{}
	if err := proto.Unmarshal(out, r); err != nil {
		b.t.Fatal(err)
	}
	return r
}

func TestInfoNamesTheRuntime(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "info", newSpec("true"))
	r := b.info()
	if r.Name != "io.containerd.runc.v2" || !proto.Equal(r.Options, b.options) {
		t.Errorf("info printed %v", r)
	}
	if r.Features != nil && !json.Valid(r.Features.Value) {
		t.Errorf("features are %q", r.Features.Value)
	}
	if out, err := b.act(nil, nil, "-v").Output(); err != nil || !strings.Contains(string(out), "  Version: ") {
		t.Errorf("-v printed %q, %v", out, err)
	}
}

func TestAGroupSharesOneShim(t *testing.T) {
	w := newWorld(t)
	inPod := func(args ...string) spec {
		s := newSpec(args...)
		s["annotations"] = map[string]string{"io.kubernetes.cri.sandbox-id": "pod"}
		return s
	}
	pause := w.box(t, "pod", inPod("sleep", "1000"))
	app := w.box(t, "app", inPod("sleep", "1000"))
	if pause.address != app.address || pause.shim() != app.shim() {
		t.Fatalf("the addresses are %s and %s", pause.address, app.address)
	}
	for _, b := range []*box{pause, app} {
		b.create(stdio{})
		b.run("")
	}
	app.kill("", unix.SIGKILL)
	app.wait("")
	app.delete("")
	if _, err := app.task.Shutdown(app.ctx(), &task.ShutdownRequest{ID: app.id}); err != nil {
		t.Fatal(err)
	}
	if pid := pause.shim(); pid == 0 { // it ignored the shutdown
		t.Error("the shim is gone")
	}
	w.events.expect(t, "app", "create", "start", "exit app", "delete")
	pause.kill("", unix.SIGKILL)
	pause.wait("")
}

func TestEventsWaitForTheDaemonInOrder(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "away", newSpec("sleep", "1000"))
	b.create(stdio{})
	b.run("")
	w.events.expect(t, "away", "create", "start")
	w.events.close()
	for _, id := range []string{"x", "y"} {
		b.exec(id, stdio{}, "true")
		b.run(id)
		b.wait(id)
	}
	if err := w.events.listen(); err != nil {
		t.Fatal(err)
	}
	w.events.expect(t, "away", "create", "start",
		"exec-added x", "exec-started x", "exit x", "exec-added y", "exec-started y", "exit y")
	b.kill("", unix.SIGKILL)
	b.wait("")
}

func TestLoggers(t *testing.T) {
	const script = "#!/bin/sh\n%s cat <&3 >%[2]s.out & cat <&4 >%[2]s.err & wait; echo $CONTAINER_ID $1=$2 >%[2]s.done\n"
	for _, tt := range []struct {
		scheme, ready string
		ok            bool
	}{
		{"binary", "exec 5>&-;", true},
		{"binary", "echo >&5; exec 5>&-;", true},
		{"binary-v2", "echo >&5; exec 5>&-;", true},
		{"binary-v2", "exec 5>&-;", false},
	} {
		t.Run(fmt.Sprintf("%s %q", tt.scheme, tt.ready), func(t *testing.T) {
			w := newWorld(t)
			b := w.box(t, "log", newSpec("sh", "-c", "echo out; echo err >&2"))
			program, result := filepath.Join(w.dir, "logger"), filepath.Join(w.dir, "result")
			if err := os.WriteFile(program, fmt.Appendf(nil, script, tt.ready, result), 0o755); err != nil {
				t.Fatal(err)
			}
			uri := tt.scheme + "://" + program + "?k=v"
			_, err := b.task.Create(b.ctx(), &task.CreateTaskRequest{
				ID: b.id, Bundle: b.bundle, Options: b.options, Rootfs: b.rootfs(), Stdout: uri, Stderr: uri,
			})
			if (err == nil) != tt.ok {
				t.Fatalf("create: %v", err)
			}
			if !tt.ok {
				return
			}
			b.run("")
			b.wait("")
			b.delete("")
			for name, want := range map[string]string{"out": "out\n", "err": "err\n", "done": "log k=v\n"} {
				if data, err := os.ReadFile(result + "." + name); err != nil || string(data) != want {
					t.Errorf("the logger's %s is %q, %v; want %q", name, data, err, want)
				}
			}
		})
	}
}

func TestFileTakesBothStreams(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "file", newSpec("sh", "-c", "echo out; echo err >&2"))
	path := filepath.Join(w.dir, "new", "log")
	b.create(stdio{out: "file://" + path, err: "file://" + path})
	b.run("")
	b.wait("")
	b.delete("")
	if data, err := os.ReadFile(path); err != nil || string(data) != "out\nerr\n" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

func TestOtherOptionsAreRefused(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "opt", newSpec("true"))
	other, err := anypb.New(&runcoptions.ProcessDetails{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.task.Create(b.ctx(), &task.CreateTaskRequest{ID: b.id, Bundle: b.bundle, Options: other}); err == nil {
		t.Error("options of another type were taken")
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	w := newWorld(t)
	b := w.box(t, "stale", newSpec("true"))
	unix.Kill(int(b.shim()), unix.SIGKILL)
	until(t, "the socket is dead", func() bool {
		c, err := net.Dial("unix", strings.TrimPrefix(b.address, "unix://"))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	b.address = b.start()
	b.dial()
	b.create(stdio{})
	b.run("")
	b.wait("")
}
