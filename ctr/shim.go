// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
)

// shimTarget is the shim that a command is for.
type shimTarget struct{ id, address string }

func shimFlags(s *session, f flagSet) {
	f.StringVar(&s.group.shim.id, "id", "", "Id of the shim's container")
	f.StringVar(&s.group.shim.address, "shim-address", "", "Address of the shim, found by its id if empty")
}

func shimCommands() []command {
	rows := []command{
		{use: "delete ID", short: "Delete a container with its task", declare: shimDelete},
		{use: "exec ID", short: "Run another process in a container", declare: shimExec},
		{use: "start ID", short: "Start the task of a container", declare: shimStart},
		{use: "state", short: "Print the state of a task", declare: shimState},
		{use: "shutdown", short: "End a shim that has no container", declare: shimShutdown},
	}
	return append(rows, command{use: "pprof", short: "Get profiles of a shim", shared: debugSocket, sub: pprofCommands})
}

// dialShim connects to the shim. A socket's name is made of the daemon's
// address, the namespace and the id (reference: shim protocol, sockets).
func (s *session) dialShim() (*ttrpc.Client, error) {
	t := s.group.shim
	if t.id == "" && t.address == "" {
		return nil, errors.New("shim ID (--id) or address (--shim-address) must be specified")
	}
	var sockets []string
	if t.address != "" {
		sockets = append(sockets, strings.TrimPrefix(t.address, "unix://"))
	}
	if t.id != "" {
		key := filepath.Join(s.globals.address, s.globals.namespace, t.id)
		sockets = append(sockets, fmt.Sprintf("/run/containerd/s/%x", sha256.Sum256([]byte(key))))
	}
	for _, path := range sockets {
		var d net.Dialer
		if conn, err := d.DialContext(s.ctx, "unix", path); err == nil {
			c := ttrpc.NewClient(conn)
			s.atEnd(func(context.Context) error { return c.Close() })
			return c, nil
		}
	}
	return nil, fmt.Errorf("fail to connect to container shim with sockets: %v", sockets)
}

func (s *session) shim() (taskv3.TTRPCTaskService, error) {
	c, err := s.dialShim()
	if err != nil {
		return nil, err
	}
	return taskv3.NewTTRPCTaskClient(c), nil
}

func shimStart(flagSet) action {
	return func(s *session, args []string) error {
		shim, err := s.shim()
		if err != nil {
			return err
		}
		_, err = shim.Start(s.ctx, &taskv3.StartRequest{ID: arg(args, 0)})
		return err
	}
}

func shimDelete(flagSet) action {
	return func(s *session, args []string) error {
		shim, err := s.shim()
		if err != nil {
			return err
		}
		resp, err := shim.Delete(s.ctx, &taskv3.DeleteRequest{ID: arg(args, 0)})
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "container deleted and returned exit status %d\n", resp.ExitStatus)
		return nil
	}
}

func apiVersion(f flagSet) *int { return f.Int("api-version", 3, "Version of the shim's API, 2 or 3") }

var errAPIVersion = errors.New("api-version must be 2 or 3")

func shimShutdown(f flagSet) action {
	version := apiVersion(f)
	return func(s *session, _ []string) error {
		if *version != 2 && *version != 3 {
			return errAPIVersion
		}
		c, err := s.dialShim()
		if err != nil {
			return err
		}
		if *version == 2 {
			_, err = taskv2.NewTTRPCTaskClient(c).Shutdown(s.ctx, &taskv2.ShutdownRequest{})
		} else {
			_, err = taskv3.NewTTRPCTaskClient(c).Shutdown(s.ctx, &taskv3.ShutdownRequest{})
		}
		return err
	}
}

func shimState(f flagSet) action {
	version := apiVersion(f)
	id := f.StringP("task-id", "t", "", "Id of the task, the shim's if empty")
	return func(s *session, _ []string) error {
		if *version != 2 && *version != 3 {
			return errAPIVersion
		}
		if *id == "" {
			*id = s.group.shim.id
		}
		c, err := s.dialShim()
		if err != nil {
			return err
		}
		var state any
		if *version == 2 {
			state, err = taskv2.NewTTRPCTaskClient(c).State(s.ctx, &taskv2.StateRequest{ID: *id})
		} else {
			state, err = taskv3.NewTTRPCTaskClient(c).State(s.ctx, &taskv3.StateRequest{ID: *id})
		}
		if err != nil {
			return err
		}
		return s.json(state)
	}
}

// shimExecFlags are those of shim exec.
type shimExecFlags struct {
	stdin, stdout, stderr, cwd, spec string
	tty, attach                      bool
	env                              []string
}

func shimExec(f flagSet) action {
	e := &shimExecFlags{}
	f.StringVar(&e.stdin, "stdin", "", "FIFO of standard input")
	f.StringVar(&e.stdout, "stdout", "", "FIFO of standard output")
	f.StringVar(&e.stderr, "stderr", "", "FIFO of standard error")
	f.BoolVarP(&e.tty, "tty", "t", false, "Give the process a terminal")
	f.BoolVarP(&e.attach, "attach", "a", false, "Stay connected to the FIFOs")
	listVar(f, &e.env, "env", "e", "Environment variable, NAME=value")
	f.StringVar(&e.cwd, "cwd", "", "Working directory of the process")
	f.StringVar(&e.spec, "spec", "", "File of the process's spec")
	return func(s *session, args []string) error {
		shim, err := s.shim()
		if err != nil {
			return err
		}
		if arg(args, 0) == "" {
			return errors.New("exec id must be provided")
		}
		return s.shimExec(shim, e, args[0])
	}
}

func (s *session) shimExec(shim taskv3.TTRPCTaskService, e *shimExecFlags, id string) error {
	spec, err := e.process()
	if err != nil {
		return err
	}
	tty, err := s.terminal(e.tty && e.attach)
	if err != nil {
		return err
	}
	defer tty.restore()
	streams, err := client.OpenIO(e.stdin, e.stdout, e.stderr, e.tty, s.in, s.out, s.err)
	if err != nil {
		return err
	}
	defer streams.Cancel()
	container := s.group.shim.id
	_, err = shim.Exec(s.ctx, &taskv3.ExecProcessRequest{
		ID: container, ExecID: id, Spec: spec, Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr, Terminal: e.tty,
	})
	if err != nil {
		return err
	}
	resp, err := shim.Start(s.ctx, &taskv3.StartRequest{ID: container, ExecID: id})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "exec running with pid %d\n", resp.Pid)
	if e.attach {
		streams.Wait()
	}
	return nil
}

// process reads the spec, and changes it by the flags.
func (e *shimExecFlags) process() (*anypb.Any, error) {
	data, err := os.ReadFile(e.spec)
	if err != nil {
		return nil, err
	}
	var p specs.Process
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("spec %s: %w", e.spec, err)
	}
	p.Env = append(p.Env, e.env...)
	if e.cwd != "" {
		p.Cwd = e.cwd
	}
	return client.ProcessProto(&p)
}
