// SPDX-License-Identifier: Apache-2.0

package shimtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func run(action string) error {
	switch action {
	case "start":
		return start()
	case "delete":
		return remove()
	case "serve":
		return serve()
	case "-info":
		return print(&types.RuntimeInfo{Name: "fake", Annotations: map[string]string{"is": "fake"}})
	}
	return fmt.Errorf("unknown action %q", action)
}

func print(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	return err
}

func flagValue(name string) string {
	for i, a := range os.Args[:len(os.Args)-1] {
		if a == name {
			return os.Args[i+1]
		}
	}
	return ""
}

// start serves in a new process whose listener is ready already.
func start() error {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var p bootstrap.BootstrapParams
	if err := proto.Unmarshal(stdin, &p); err != nil {
		return err
	}
	if p.InstanceID != flagValue("-id") || p.Namespace != os.Getenv("NAMESPACE") || p.ContainerdTtrpcAddress != os.Getenv("TTRPC_ADDRESS") {
		return fmt.Errorf("parameters %v do not agree with arguments and environment", &p)
	}
	opts := Options{Version: 3, Protocol: "ttrpc"}
	if len(p.Extensions) > 0 {
		if err := json.Unmarshal(p.Extensions[0].Value.Value, &opts); err != nil {
			return err
		}
	}
	opts.Version, opts.Protocol = orInt(opts.Version, 3), or(opts.Protocol, "ttrpc")
	data, err := json.Marshal(opts)
	if err != nil {
		return err
	}
	if err := os.WriteFile("fake.json", data, 0o600); err != nil {
		return err
	}
	if opts.Reply == "fail" {
		return errors.New("no luck today")
	}
	socket := filepath.Join(filepath.Dir(os.Args[0]), p.Namespace+"-"+p.InstanceID)
	if err := fork(socket); err != nil {
		return err
	}
	if opts.Reply == "hang" {
		time.Sleep(time.Hour) // select would be a deadlock for Go, which ends the process
	}
	return reply(opts, "unix://"+socket)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func orInt(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func fork(socket string) error {
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0], "-id", flagValue("-id"), "serve")
	cmd.Env = append(os.Environ(), envDir+"="+filepath.Dir(os.Args[0]))
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return os.WriteFile("shim.pid", []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

func reply(opts Options, address string) error {
	switch or(opts.Reply, "proto") {
	case "proto":
		return print(&bootstrap.BootstrapResult{Version: int32(opts.Version), Address: address, Protocol: opts.Protocol})
	case "json":
		fmt.Printf(`{"version":%d,"address":%q,"protocol":%q}`+"\n", opts.Version, address, opts.Protocol)
	case "plain":
		fmt.Println(address)
	case "noise":
		fmt.Printf("warning: this is noise\n%s\n", address)
	case "newer":
		fmt.Printf(`{"version":9,"address":%q,"protocol":"ttrpc"}`, address)
	}
	return nil
}

// remove is the delete command.
func remove() error {
	var opts Options
	data, err := os.ReadFile("fake.json")
	if err == nil {
		err = json.Unmarshal(data, &opts)
	}
	if opts.Delete == "fail" {
		return errors.New("delete does not work")
	}
	pid := 0
	if text, err := os.ReadFile("init.pid"); err == nil {
		pid, _ = strconv.Atoi(string(text))
		syscall.Kill(pid, syscall.SIGKILL)
	}
	return print(&taskapi.DeleteResponse{Pid: uint32(pid), ExitStatus: 137, ExitedAt: timestamppb.Now()})
}

func serve() error {
	syscall.CloseOnExec(3)
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	data, err := os.ReadFile("fake.json")
	if err != nil {
		return err
	}
	f := &fake{procs: map[string]*proc{}}
	if err := json.Unmarshal(data, &f.opts); err != nil {
		return err
	}
	if log, err := os.OpenFile("log", os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(log, "fake shim %s serves\n", flagValue("-id"))
	}
	if f.opts.Protocol == "grpc" {
		return f.serveGRPC(l)
	}
	return f.serveTTRPC(l)
}

func (f *fake) serveGRPC(l net.Listener) error {
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		return resp, errgrpc.ToGRPC(err)
	}))
	taskapi.RegisterTaskServer(s, f)
	return s.Serve(l)
}

func (f *fake) serveTTRPC(l net.Listener) error {
	s, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		if ns, _ := ttrpc.GetMetadataValue(ctx, "containerd-namespace-ttrpc"); ns == "" {
			return nil, errgrpc.ToGRPC(fmt.Errorf("namespace is required: %w", errdefs.ErrFailedPrecondition))
		}
		resp, err := method(ctx, unmarshal)
		return resp, errgrpc.ToGRPC(err)
	}))
	if err != nil {
		return err
	}
	if f.opts.Version == 3 && f.opts.Create != "old" {
		taskapi.RegisterTTRPCTaskService(s, f)
	} else {
		s.RegisterService("containerd.task.v2.Task", f.version2())
	}
	sandboxapi.RegisterTTRPCSandboxService(s, &fakeSandbox{f: f})
	return s.Serve(context.Background(), l)
}

// version2 serves the messages of version 3, which are the same.
func (f *fake) version2() *ttrpc.ServiceDesc {
	return &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State": method(f.State), "Create": method(f.Create), "Start": method(f.Start), "Delete": method(f.Delete),
		"Kill": method(f.Kill), "Wait": method(f.Wait), "Shutdown": method(f.Shutdown), "Exec": method(f.Exec), "Pids": method(f.Pids),
	}}
}

func method[Req, Resp any](fn func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Req)
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		return fn(ctx, req)
	}
}

// proc is a process of a container, or will be.
type proc struct {
	cmd    *exec.Cmd
	status tasktypes.Status
	exited chan struct{}
	exit   uint32
	at     time.Time
}

type fake struct {
	taskapi.UnimplementedTaskServer
	opts Options

	mu    sync.Mutex
	procs map[string]*proc // by container id, or that and the exec id
}

func (f *fake) find(id, exec string) (*proc, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.procs[strings.TrimSuffix(id+"/"+exec, "/")]
	if !ok {
		return nil, fmt.Errorf("process %s %s: %w", id, exec, errdefs.ErrNotFound)
	}
	return p, nil
}

func (f *fake) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	switch f.opts.Create {
	case "fail":
		return nil, errors.New("OCI runtime create failed: no luck")
	case "die":
		os.Exit(1)
	}
	p, err := spawn()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(r.Bundle, "init.pid"), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0o600); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.procs[r.ID] = p
	f.mu.Unlock()
	if f.opts.Create == "hang" {
		time.Sleep(time.Hour) // select would be a deadlock for Go, which ends the process
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(p.cmd.Process.Pid)}, nil
}

func spawn() (*proc, error) {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &proc{cmd: cmd, status: tasktypes.Status_CREATED, exited: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		cmd.Wait()
		p.exit, p.at = 128+uint32(cmd.ProcessState.Sys().(syscall.WaitStatus).Signal()), time.Now()
		close(p.exited)
	}()
	return p, nil
}

func (p *proc) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (f *fake) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	p, err := f.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	p.status = tasktypes.Status_RUNNING
	f.mu.Unlock()
	return &taskapi.StartResponse{Pid: uint32(p.cmd.Process.Pid)}, nil
}

func (f *fake) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	p, err := f.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	resp := &taskapi.StateResponse{ID: r.ID, ExecID: r.ExecID, Pid: uint32(p.cmd.Process.Pid)}
	f.mu.Lock()
	resp.Status = p.status
	f.mu.Unlock()
	if p.gone() {
		resp.Status, resp.ExitStatus, resp.ExitedAt = tasktypes.Status_STOPPED, p.exit, timestamppb.New(p.at)
	}
	return resp, nil
}

func (f *fake) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	p, err := f.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.gone() {
		return nil, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return &emptypb.Empty{}, p.cmd.Process.Signal(syscall.Signal(r.Signal))
}

func (f *fake) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	p, err := f.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile("waiting", nil, 0o600); err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
		return &taskapi.WaitResponse{ExitStatus: p.exit, ExitedAt: timestamppb.New(p.at)}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fake) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	if _, err := f.find(r.ID, ""); err != nil {
		return nil, err
	}
	p, err := spawn()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.procs[r.ID+"/"+r.ExecID] = p
	return &emptypb.Empty{}, nil
}

func (f *fake) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	p, err := f.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !p.gone() {
		if p.status == tasktypes.Status_RUNNING {
			return nil, errors.New("cannot delete a running process")
		}
		p.cmd.Process.Kill()
		<-p.exited
	}
	delete(f.procs, strings.TrimSuffix(r.ID+"/"+r.ExecID, "/"))
	return &taskapi.DeleteResponse{Pid: uint32(p.cmd.Process.Pid), ExitStatus: p.exit, ExitedAt: timestamppb.New(p.at)}, nil
}

func (f *fake) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	p, err := f.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	return &taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: uint32(p.cmd.Process.Pid)}}}, nil
}

func (f *fake) Pause(context.Context, *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (f *fake) Resume(context.Context, *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (f *fake) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint: %w", errdefs.ErrNotImplemented)
}

func (f *fake) ResizePty(context.Context, *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (f *fake) CloseIO(context.Context, *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (f *fake) Update(context.Context, *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (f *fake) Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return &taskapi.StatsResponse{Stats: Options{}.Any()}, nil
}

func (f *fake) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
}

// Shutdown ends the shim, after the answer, if it has nothing to do.
func (f *fake) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.procs) == 0 {
		time.AfterFunc(10*time.Millisecond, func() { os.Exit(0) })
	}
	return &emptypb.Empty{}, nil
}

// fakeSandbox is a sandbox that does nothing but hold tasks.
type fakeSandbox struct {
	f       *fake
	mu      sync.Mutex
	state   string
	created time.Time
	stopped chan struct{}
}

func (s *fakeSandbox) CreateSandbox(_ context.Context, r *sandboxapi.CreateSandboxRequest) (*sandboxapi.CreateSandboxResponse, error) {
	if s.f.opts.Create == "fail" {
		return nil, errors.New("no room for a sandbox")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.created, s.stopped = "created", time.Now(), make(chan struct{})
	return &sandboxapi.CreateSandboxResponse{}, nil
}

func (s *fakeSandbox) StartSandbox(context.Context, *sandboxapi.StartSandboxRequest) (*sandboxapi.StartSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = "ready"
	return &sandboxapi.StartSandboxResponse{Pid: uint32(os.Getpid()), CreatedAt: timestamppb.New(s.created)}, nil
}

func (s *fakeSandbox) Platform(context.Context, *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: "fake"}}, nil
}

func (s *fakeSandbox) StopSandbox(context.Context, *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != "stopped" {
		s.state = "stopped"
		close(s.stopped)
	}
	return &sandboxapi.StopSandboxResponse{}, nil
}

func (s *fakeSandbox) WaitSandbox(ctx context.Context, _ *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	if err := os.WriteFile("waiting", nil, 0o600); err != nil {
		return nil, err
	}
	select {
	case <-s.stopped:
		return &sandboxapi.WaitSandboxResponse{ExitStatus: 7, ExitedAt: timestamppb.Now()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *fakeSandbox) SandboxStatus(_ context.Context, r *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == "" {
		return nil, fmt.Errorf("sandbox %s: %w", r.SandboxID, errdefs.ErrNotFound)
	}
	return &sandboxapi.SandboxStatusResponse{SandboxID: r.SandboxID, Pid: uint32(os.Getpid()), State: s.state, CreatedAt: timestamppb.New(s.created)}, nil
}

func (s *fakeSandbox) PingSandbox(context.Context, *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	return &sandboxapi.PingResponse{}, nil
}

func (s *fakeSandbox) ShutdownSandbox(context.Context, *sandboxapi.ShutdownSandboxRequest) (*sandboxapi.ShutdownSandboxResponse, error) {
	time.AfterFunc(10*time.Millisecond, func() { os.Exit(0) })
	return &sandboxapi.ShutdownSandboxResponse{}, nil
}

func (s *fakeSandbox) SandboxMetrics(_ context.Context, r *sandboxapi.SandboxMetricsRequest) (*sandboxapi.SandboxMetricsResponse, error) {
	return &sandboxapi.SandboxMetricsResponse{Metrics: &types.Metric{ID: r.SandboxID}}, nil
}
