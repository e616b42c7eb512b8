// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/resident"
	"slipway/internal/version"
	"slipway/linux"
)

// maxVersion is the newest task API that is spoken here.
const maxVersion = 3

// An Endpoint is where a shim serves its API. Address is a URL such as
// unix:///run/containerd/s/abc; Protocol is ttrpc or grpc.
type Endpoint struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// ParseEndpoint splits an address as it travels in requests, such as
// ttrpc+unix:///run/containerd/s/abc.
func ParseEndpoint(address string, version int) Endpoint {
	protocol, rest, ok := strings.Cut(address, "+")
	if !ok || strings.Contains(protocol, "/") {
		protocol, rest = "ttrpc", address
	}
	return Endpoint{version, rest, protocol}
}

// String is the inverse of ParseEndpoint, "" for no endpoint.
func (e Endpoint) String() string {
	if e.Address == "" {
		return ""
	}
	return e.Protocol + "+" + e.Address
}

// parseReply reads what a shim prints when it has started: the message
// BootstrapResult, or its like in JSON, or an address alone.
func parseReply(out []byte) (Endpoint, error) {
	var r bootstrap.BootstrapResult
	// A text can happen to be a message of unknown fields.
	if proto.Unmarshal(out, &r) == nil && r.Version > 0 && r.Address != "" {
		return checkReply(Endpoint{int(r.Version), r.Address, r.Protocol})
	}
	text := bytes.TrimSpace(out)
	if len(text) == 0 {
		return Endpoint{}, errors.New("the shim printed no address")
	}
	var e Endpoint
	if text[0] == '{' && json.Unmarshal(text, &e) == nil && e.Version >= 2 {
		return checkReply(e)
	}
	return checkReply(Endpoint{2, string(text), "ttrpc"})
}

func checkReply(e Endpoint) (Endpoint, error) {
	if e.Version > maxVersion {
		return e, fmt.Errorf("shim API version %d, this daemon knows %d: %w", e.Version, maxVersion, errdefs.ErrNotImplemented)
	}
	if strings.ContainsAny(e.Address, "\n\x00") {
		return e, fmt.Errorf("the shim printed no address but %.200q", e.Address)
	}
	if e.Protocol == "" {
		e.Protocol = "ttrpc"
	}
	return e, nil
}

// A finder finds the shims of runtimes and remembers them.
type finder struct {
	daemon string // the daemon's executable, shims may be beside it

	mu    sync.Mutex
	found map[string]string
}

// binary returns the absolute path of a runtime's shim. explicit, if there is
// one, is that path.
func (f *finder) binary(runtime, explicit string) (string, error) {
	if explicit == "" && filepath.IsAbs(runtime) {
		explicit = runtime
	}
	if explicit != "" {
		if !filepath.IsAbs(explicit) {
			return "", fmt.Errorf("runtime path %q is not absolute: %w", explicit, errdefs.ErrInvalidArgument)
		}
		if _, err := os.Stat(explicit); err != nil {
			return "", fmt.Errorf("runtime %q: %w", explicit, err)
		}
		return explicit, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if path, ok := f.found[runtime]; ok {
		return path, nil
	}
	path, err := f.look(runtime)
	if err != nil {
		return "", err
	}
	f.found[runtime] = path
	return path, nil
}

func (f *finder) look(runtime string) (string, error) {
	name := binaryName(runtime)
	if name == "" || strings.Contains(runtime, "/") {
		return "", fmt.Errorf("invalid runtime name %q, it is like io.containerd.runc.v2 or the full path of a shim: %w", runtime, errdefs.ErrInvalidArgument)
	}
	// A shim in the daemon's own directory of work comes first.
	if path, err := filepath.Abs(name); err == nil && isExecutable(path) {
		return path, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	if path := filepath.Join(filepath.Dir(f.daemon), name); f.daemon != "" && isExecutable(path) {
		return filepath.Abs(path)
	}
	return "", fmt.Errorf("runtime %q binary not installed %q: %w", runtime, name, fs.ErrNotExist)
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// binaryName is the command of a runtime: that of io.containerd.runc.v2 is
// containerd-shim-runc-v2. It is "" if the runtime's name has no such form.
func binaryName(runtime string) string {
	parts := strings.Split(runtime, ".")
	if n := len(parts); n >= 2 && parts[0] != "" {
		return "containerd-shim-" + parts[n-2] + "-" + parts[n-1]
	}
	return ""
}

// command prepares a call of a shim's binary in the directory of its bundle.
func (x *Shims) command(ctx context.Context, bin string, b bundle, args ...string) *exec.Cmd {
	cfg := x.cfg
	all := []string{"-namespace", string(b.ns), "-address", cfg.Address, "-publish-binary", cfg.Binary, "-id", b.id}
	cmd := exec.CommandContext(ctx, bin, append(all, args...)...)
	cmd.Dir = b.path
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "MAX_SHIM_VERSION=2",
		"TTRPC_ADDRESS="+cfg.TTRPCAddress, "GRPC_ADDRESS="+cfg.Address, "NAMESPACE="+string(b.ns))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// The shim that was started must not hold the pipe; one that does is not
	// waited for.
	cmd.WaitDelay = time.Second
	return cmd
}

// start runs the shim's start command and returns where the shim serves.
func (x *Shims) start(ctx context.Context, bin string, b bundle, options *anypb.Any) (Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeouts.Call)
	defer cancel()
	stdin, err := x.startInput(bin, b, options)
	if err != nil {
		return Endpoint{}, err
	}
	args := []string{"start"}
	if x.cfg.LogLevel < 0 {
		args = []string{"-debug", "start"}
	}
	// A shim that stays must not end with this call.
	cmd := x.command(context.WithoutCancel(ctx), bin, b, args...)
	cmd.Env = append(append(cmd.Env, "GOMAXPROCS=1", resident.Env+"=1"), x.cfg.Env...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := reply(ctx, cmd)
	if err != nil {
		return Endpoint{}, commandError(ctx, out, err)
	}
	return parseReply(out)
}

// reply runs cmd and returns its output when it has ended, or when it has
// said that it stays and closed its output. One that stays is reaped whenever
// it ends.
func reply(ctx context.Context, cmd *exec.Cmd) (out []byte, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = linux.OwnTimers(cmd.Start)
	w.Close()
	if err != nil {
		return nil, err
	}
	read, ended := make(chan []byte, 1), make(chan error, 1)
	go func() {
		data, _ := io.ReadAll(r)
		read <- data
	}()
	go func() { ended <- cmd.Wait() }()
	select {
	case out = <-read:
		if stays(out, cmd.Process.Pid) {
			return out, nil
		}
	case err = <-ended:
		// What it started may hold the pipe and is not waited for.
		r.SetReadDeadline(time.Now().Add(cmd.WaitDelay))
		return <-read, err
	case <-ctx.Done():
	}
	select {
	case err = <-ended:
		return out, err
	case <-ctx.Done():
		cmd.Cancel()
		return out, errors.Join(ctx.Err(), <-ended)
	}
}

// stays reports whether a shim's start command has become the shim.
func stays(out []byte, pid int) bool {
	var r bootstrap.BootstrapResult
	return proto.Unmarshal(out, &r) == nil && r.Metadata[resident.Key] == strconv.Itoa(pid)
}

// commandError says what a command printed before it failed.
func commandError(ctx context.Context, out []byte, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if text := bytes.TrimSpace(out); len(text) > 0 {
		return fmt.Errorf("%.4096s: %w", text, err)
	}
	return err
}

func (x *Shims) startInput(bin string, b bundle, options *anypb.Any) ([]byte, error) {
	switch filepath.Base(bin) {
	case "containerd-shim-runc-v1", "containerd-shim-runhcs-v1": // older than the message
		if options == nil {
			return nil, nil
		}
		return proto.Marshal(options)
	}
	p := &bootstrap.BootstrapParams{
		InstanceID: b.id, Namespace: string(b.ns),
		LogLevel:               bootstrap.LogLevel(x.cfg.LogLevel), // slog's numbers are the same
		ContainerdVersion:      version.Version,
		ContainerdTtrpcAddress: x.cfg.TTRPCAddress, ContainerdGrpcAddress: x.cfg.Address, ContainerdBinary: x.cfg.Binary,
	}
	if options != nil {
		p.Extensions = []*bootstrap.Extension{{Value: options}}
	}
	if x.cfg.SocketDir != "" {
		p.SocketDir = &x.cfg.SocketDir
	}
	return proto.Marshal(p)
}

// deleteRemains runs the shim's delete command, which removes what a shim that
// is gone has left of its container.
func (x *Shims) deleteRemains(ctx context.Context, bin string, b bundle) (Exit, error) {
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeouts.Cleanup)
	defer cancel()
	args := []string{"-bundle", b.path}
	if x.cfg.LogLevel < 0 {
		args = append(args, "-debug")
	}
	cmd := x.command(ctx, bin, b, append(args, "delete")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return Exit{}, commandError(ctx, stderr.Bytes(), err)
	}
	if stderr.Len() > 0 {
		x.log.Warn("shim delete", "namespace", b.ns, "id", b.id, "output", stderr.String())
	}
	var r taskapi.DeleteResponse
	if err := proto.Unmarshal(stdout.Bytes(), &r); err != nil {
		return Exit{}, fmt.Errorf("reply of shim delete: %w", err)
	}
	return exitOf(&r), nil
}

// info asks a shim's binary what it is.
func (x *Shims) info(ctx context.Context, bin string, options *anypb.Any) (*types.RuntimeInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeouts.Call)
	defer cancel()
	var stdin []byte
	if options != nil {
		var err error
		if stdin, err = proto.Marshal(options); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, bin, "-info")
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s -info: %w", bin, commandError(ctx, stderr.Bytes(), err))
	}
	info := &types.RuntimeInfo{}
	if err := proto.Unmarshal(stdout.Bytes(), info); err != nil {
		return nil, fmt.Errorf("%s -info: %w", bin, err)
	}
	return info, nil
}
