// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/oci"
)

// catServer is a daemon and shim whose only program is cat. As the shim does,
// it holds both ends of the FIFOs, and opens those of an exec at Start.
type catServer struct {
	tasksapi.UnimplementedTasksServer
	t *testing.T

	mu       sync.Mutex
	procs    map[string]*cat // by exec id
	creating error
	deleted  []string
}

type cat struct {
	status                tasktypes.Status
	stdin, stdout, stderr string
	in, inHold            *os.File
	out, outHold          *os.File
	err, errHold          *os.File
	exited                chan struct{}
}

func (s *catServer) get(exec string) (*cat, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.procs[exec]
	if !ok {
		return nil, fmt.Errorf("task c1 not found: %w", errdefs.ErrNotFound)
	}
	return p, nil
}

func (s *catServer) add(exec, stdin, stdout, stderr string) *cat {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &cat{status: tasktypes.Status_CREATED, stdin: stdin, stdout: stdout, stderr: stderr, exited: make(chan struct{})}
	s.procs[exec] = p
	return p
}

func (p *cat) open(t *testing.T) {
	p.in, p.inHold = openBoth(t, p.stdin)
	p.outHold, p.out = openBoth(t, p.stdout)
	if p.stderr != "" {
		p.errHold, p.err = openBoth(t, p.stderr)
	}
}

func (s *catServer) Create(_ context.Context, r *tasksapi.CreateTaskRequest) (*tasksapi.CreateTaskResponse, error) {
	if s.creating != nil {
		return nil, s.creating
	}
	if len(r.Rootfs) != 1 || r.Rootfs[0].Source != "of sn/key" {
		return nil, fmt.Errorf("rootfs %v", r.Rootfs)
	}
	s.add("", r.Stdin, r.Stdout, r.Stderr).open(s.t)
	return &tasksapi.CreateTaskResponse{ContainerID: r.ContainerID, Pid: 7}, nil
}

func (s *catServer) Exec(_ context.Context, r *tasksapi.ExecProcessRequest) (*emptypb.Empty, error) {
	if r.Spec.TypeUrl != processURL || !strings.Contains(string(r.Spec.Value), `"cwd":"/x"`) {
		return nil, fmt.Errorf("spec %v", r.Spec)
	}
	s.add(r.ExecID, r.Stdin, r.Stdout, r.Stderr)
	return &emptypb.Empty{}, nil
}

func (s *catServer) Start(_ context.Context, r *tasksapi.StartRequest) (*tasksapi.StartResponse, error) {
	p, err := s.get(r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID != "" {
		p.open(s.t)
	}
	p.status = tasktypes.Status_RUNNING
	go func() {
		io.Copy(p.out, p.in)
		s.mu.Lock()
		p.status = tasktypes.Status_STOPPED
		s.mu.Unlock()
		p.out.Close()
		p.outHold.Close()
		p.err.Close()
		p.errHold.Close()
		close(p.exited)
	}()
	return &tasksapi.StartResponse{Pid: 8}, nil
}

func (s *catServer) CloseIO(_ context.Context, r *tasksapi.CloseIORequest) (*emptypb.Empty, error) {
	p, err := s.get(r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.inHold != nil {
		p.inHold.Close()
	}
	return &emptypb.Empty{}, nil
}

func (s *catServer) Wait(ctx context.Context, r *tasksapi.WaitRequest) (*tasksapi.WaitResponse, error) {
	p, err := s.get(r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
		return &tasksapi.WaitResponse{ExitStatus: 3, ExitedAt: timestamppb.Now()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *catServer) Get(_ context.Context, r *tasksapi.GetRequest) (*tasksapi.GetResponse, error) {
	p, err := s.get(r.ExecID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &tasksapi.GetResponse{Process: &tasktypes.Process{
		Pid: 8, Status: p.status, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr,
	}}, nil
}

func (s *catServer) remove(exec string) (*tasksapi.DeleteResponse, error) {
	if _, err := s.get(exec); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.procs, exec)
	s.deleted = append(s.deleted, "task:"+exec)
	return &tasksapi.DeleteResponse{ExitStatus: 3, ExitedAt: timestamppb.Now()}, nil
}

func (s *catServer) Delete(context.Context, *tasksapi.DeleteTaskRequest) (*tasksapi.DeleteResponse, error) {
	return s.remove("")
}

func (s *catServer) DeleteProcess(_ context.Context, r *tasksapi.DeleteProcessRequest) (*tasksapi.DeleteResponse, error) {
	return s.remove(r.ExecID)
}

func (s *catServer) Kill(_ context.Context, r *tasksapi.KillRequest) (*emptypb.Empty, error) {
	return s.CloseIO(context.Background(), &tasksapi.CloseIORequest{ExecID: r.ExecID})
}

// recordServer keeps the records of containers and snapshots.
type recordServer struct {
	containersapi.UnimplementedContainersServer
	snapshots snapshotServer
	created   *containersapi.Container
	refuse    error
}

func (s *recordServer) Get(_ context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	if r.ID != "c1" {
		return nil, fmt.Errorf("container %q in namespace %q: %w", r.ID, "test", errdefs.ErrNotFound)
	}
	return &containersapi.GetContainerResponse{Container: &containersapi.Container{ID: "c1", Snapshotter: "sn", SnapshotKey: "key"}}, nil
}

func (s *recordServer) Create(_ context.Context, r *containersapi.CreateContainerRequest) (*containersapi.CreateContainerResponse, error) {
	s.created = r.Container
	return &containersapi.CreateContainerResponse{Container: r.Container}, s.refuse
}

func (s *recordServer) Delete(_ context.Context, r *containersapi.DeleteContainerRequest) (*emptypb.Empty, error) {
	s.snapshots.note("container " + r.ID)
	return &emptypb.Empty{}, nil
}

// snapshotServer has one writable directory for every key.
type snapshotServer struct {
	snapshotsapi.UnimplementedSnapshotsServer
	dir string
	mu  sync.Mutex
	log []string
}

func (s *snapshotServer) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
}

func (s *snapshotServer) notes() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, ", ")
}

func (s *snapshotServer) Mounts(_ context.Context, r *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	return &snapshotsapi.MountsResponse{Mounts: []*types.Mount{{Type: "bind", Source: "of " + r.Snapshotter + "/" + r.Key}}}, nil
}

func (s *snapshotServer) Prepare(_ context.Context, r *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	s.note("prepare " + r.Key + " on " + r.Parent)
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: []*types.Mount{{Type: "bind", Source: s.dir, Options: []string{"rbind", "rw"}}}}, nil
}

func (s *snapshotServer) View(_ context.Context, r *snapshotsapi.ViewSnapshotRequest) (*snapshotsapi.ViewSnapshotResponse, error) {
	s.note("view " + r.Key + " on " + r.Parent)
	return &snapshotsapi.ViewSnapshotResponse{}, nil
}

func (s *snapshotServer) Remove(_ context.Context, r *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	s.note("remove " + r.Key)
	return &emptypb.Empty{}, nil
}

func taskClient(t *testing.T) (*Client, *catServer, *recordServer) {
	t.Helper()
	tasks := &catServer{t: t, procs: make(map[string]*cat)}
	records := &recordServer{}
	c := serve(t, func(srv *grpc.Server) {
		tasksapi.RegisterTasksServer(srv, tasks)
		containersapi.RegisterContainersServer(srv, records)
		snapshotsapi.RegisterSnapshotsServer(srv, &records.snapshots)
		leasesapi.RegisterLeasesServer(srv, &leaseServer{})
	})
	return c, tasks, records
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// run does what a command line does with a process.
func run(t *testing.T, ctx context.Context, p *Process) {
	t.Helper()
	exit := p.Wait(ctx)
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if e := <-exit; e.Err != nil || e.Status != 3 || e.At.IsZero() {
		t.Fatalf("exit %+v", e)
	}
	if e, err := p.Delete(ctx); err != nil || e.Status != 3 {
		t.Fatalf("Delete: %+v, %v", e, err)
	}
}

func TestEndOfInputEndsTheProcess(t *testing.T) {
	for claim, input := range map[string]string{"a line": "hi\n", "nothing": "", "much": strings.Repeat("x", 300_000)} {
		t.Run(claim, func(t *testing.T) {
			c, _, _ := taskClient(t)
			ctx, root := deadline(t), t.TempDir()
			var out lockedBuffer
			streams, err := NewIO(root, "c1", false, strings.NewReader(input), &out, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			pidFile := filepath.Join(t.TempDir(), "pid")
			task, err := c.NewTask(ctx, "c1", TaskOpts{IO: streams, PidFile: pidFile})
			if err != nil {
				t.Fatal(err)
			}
			if pid, err := os.ReadFile(pidFile); err != nil || string(pid) != "7" {
				t.Errorf("pid file %q, %v", pid, err)
			}
			run(t, ctx, task.Process)
			if out.String() != input {
				t.Errorf("%d bytes of output for %d of input", len(out.String()), len(input))
			}
			empty(t, root)
		})
	}
}

func TestEndOfInputEndsAnExec(t *testing.T) {
	c, _, _ := taskClient(t)
	ctx, root := deadline(t), t.TempDir()
	var out lockedBuffer
	streams, err := NewIO(root, "e1", false, strings.NewReader("hi"), &out, nil)
	if err != nil {
		t.Fatal(err)
	}
	task := &Task{&Process{c: c, id: "c1", io: NullIO()}}
	p, err := task.Exec(ctx, "e1", &specs.Process{Cwd: "/x"}, streams)
	if err != nil {
		t.Fatal(err)
	}
	run(t, ctx, p)
	if out.String() != "hi" {
		t.Errorf("output %q", out.String())
	}
	empty(t, root)
}

func TestAttachToTheStreamsOfATask(t *testing.T) {
	c, _, _ := taskClient(t)
	ctx, root := deadline(t), t.TempDir()
	streams, err := DetachedIO(root, "c1", false)
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.NewTask(ctx, "c1", TaskOpts{IO: streams})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var out lockedBuffer
	second, err := c.AttachTask(ctx, "c1", strings.NewReader("late"), &out, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if e := <-second.Wait(ctx); e.Err != nil || second.Pid() != 8 {
		t.Fatalf("exit %+v of %d", e, second.Pid())
	}
	if _, err := second.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	if out.String() != "late" {
		t.Errorf("output %q", out.String())
	}
	empty(t, root)
}

func TestTaskThatCannotBeMadeLeavesNoFIFOs(t *testing.T) {
	c, tasks, _ := taskClient(t)
	tasks.creating = fmt.Errorf("task c1: %w", errdefs.ErrAlreadyExists)
	for id, is := range map[string]func(error) bool{"c1": errdefs.IsAlreadyExists, "c2": errdefs.IsNotFound} {
		root := t.TempDir()
		streams, err := NewIO(root, id, false, strings.NewReader("x"), io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.NewTask(deadline(t), id, TaskOpts{IO: streams}); !is(err) {
			t.Errorf("%s: %v", id, err)
		}
		empty(t, root)
	}
	if _, err := c.LoadTask(deadline(t), "c1"); !errdefs.IsNotFound(err) || err.Error() != "no running task found: task c1 not found: not found" {
		t.Errorf("LoadTask: %v", err)
	}
}

func TestRunningTaskCannotBeDeleted(t *testing.T) {
	c, tasks, records := taskClient(t)
	ctx := deadline(t)
	in, feed := io.Pipe()
	defer feed.Close()
	streams, err := NewIO(t.TempDir(), "c1", false, in, io.Discard, nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.NewTask(ctx, "c1", TaskOpts{IO: streams})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteContainer(ctx, "c1", true, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a created task with a process: %v", err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := task.Delete(ctx); !errdefs.IsFailedPrecondition(err) || err.Error() != "task must be stopped before deletion: running: failed precondition" {
		t.Errorf("Delete: %v", err)
	}
	if err := c.DeleteContainer(ctx, "c1", true, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("DeleteContainer: %v", err)
	}
	if len(tasks.deleted) != 0 || records.snapshots.notes() != "" {
		t.Errorf("deleted %v, %s", tasks.deleted, records.snapshots.notes())
	}
	feed.Close()
	if e := <-task.Wait(ctx); e.Err != nil {
		t.Fatal(e.Err)
	}
	if err := c.DeleteContainer(ctx, "c1", true, nil); err != nil {
		t.Fatal(err)
	}
	if got := records.snapshots.notes(); len(tasks.deleted) != 1 || got != "remove key, container c1" {
		t.Errorf("deleted %v, %s", tasks.deleted, got)
	}
	streams.Close()
}

func TestWaitEndsWithItsContext(t *testing.T) {
	c, tasks, _ := taskClient(t)
	tasks.add("", "", "", "")
	ctx, cancel := context.WithCancel(t.Context())
	exit := (&Process{c: c, id: "c1"}).Wait(ctx)
	cancel()
	within(t, "Wait", func() {
		if e := <-exit; !errors.Is(e.Err, context.Canceled) {
			t.Errorf("%+v", e)
		}
	})
}

func TestContainerIsMadeWhollyOrNotAtAll(t *testing.T) {
	c, _, records := taskClient(t)
	ctx := deadline(t)
	n := NewContainer{ID: "c9", Snapshotter: "sn", Parent: "sha256:p", Spec: oci.Default("test", "c9"), Labels: map[string]string{"a": "b"}}
	if _, err := c.NewContainer(ctx, n); err != nil {
		t.Fatal(err)
	}
	r := records.created
	if r.SnapshotKey != "c9" || r.Snapshotter != "sn" || r.Runtime.Name != DefaultRuntime || r.Labels["a"] != "b" {
		t.Errorf("record %v", r)
	}
	if s, err := Spec(r.Spec); err != nil || s.Linux.CgroupsPath != "/test/c9" || r.Spec.TypeUrl != specURL {
		t.Errorf("spec %v, %v", r.Spec, err)
	}
	records.refuse = fmt.Errorf("container %q: %w", "c9", errdefs.ErrAlreadyExists)
	n.ReadOnlyView = true
	if _, err := c.NewContainer(ctx, n); !errdefs.IsAlreadyExists(err) {
		t.Errorf("refused record: %v", err)
	}
	if got, want := records.snapshots.notes(), "prepare c9 on sha256:p, view c9 on sha256:p, remove c9"; got != want {
		t.Errorf("snapshots: %s", got)
	}
}

func TestSpecIsEditedByTheRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	c, _, records := taskClient(t)
	dir := t.TempDir()
	records.snapshots.dir = dir
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("bob:x:12:34::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var at string
	n := NewContainer{ID: "c9", Snapshotter: "sn", Spec: oci.Default("test", "c9"), RootOpts: func(root string) []oci.Opt {
		at = root
		if err := os.WriteFile(filepath.Join(root, "x"), nil, 0o644); err == nil {
			t.Error("the root can be written")
		}
		return []oci.Opt{oci.WithUser("bob", root)}
	}}
	if _, err := c.NewContainer(deadline(t), n); err != nil {
		t.Fatal(err)
	}
	if s, err := Spec(records.created.Spec); err != nil || s.Process.User.UID != 12 || s.Process.User.GID != 34 {
		t.Errorf("%+v, %v", s.Process.User, err)
	}
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mount point %s is left: %v", at, err)
	}
	n.RootOpts = func(root string) []oci.Opt { return []oci.Opt{oci.WithUser("eve", root)} }
	if _, err := c.NewContainer(deadline(t), n); !errdefs.IsNotFound(err) || !strings.HasSuffix(records.snapshots.notes(), "remove c9") {
		t.Errorf("unknown user: %v, %s", err, records.snapshots.notes())
	}
}
