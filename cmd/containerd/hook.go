// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
)

// publishTime bounds one publication: old shims call it and wait.
const publishTime = 10 * time.Second

// publish sends the event on stdin, an encoded Any.
func publish(f flags, args []string, stdin io.Reader) error {
	set := flag.NewFlagSet("publish", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	namespace, topic := set.String("namespace", "", ""), set.String("topic", "", "")
	if err := set.Parse(args); err != nil {
		return err
	}
	if *topic == "" {
		return errors.New("topic required to publish event")
	}
	data, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	var event anypb.Any
	if err := proto.Unmarshal(data, &event); err != nil {
		return fmt.Errorf("event on stdin: %w", err)
	}
	address := f.address
	if address == "" {
		c, _, err := f.load()
		if err != nil {
			return err
		}
		address = c.Address()
	}
	ctx, cancel := context.WithTimeout(context.Background(), publishTime)
	defer cancel()
	conn, err := client.Dial(ctx, address, client.Options{Namespace: *namespace})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Events().Publish(ctx, &eventsapi.PublishRequest{Topic: *topic, Event: &event})
	return err
}

// ociHook runs a program in its place. Its arguments are templates over the
// container's state, which the runtime gives on stdin, and its bundle.
func ociHook(args []string, stdin io.Reader) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("oci-hook needs a command")
	}
	state, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	h := &hookState{}
	if err := json.Unmarshal(state, &h.State); err != nil {
		return fmt.Errorf("container state on stdin: %w", err)
	}
	argv := make([]string, len(args))
	for i, a := range args {
		if argv[i], err = h.expand(a); err != nil {
			return fmt.Errorf("argument %q: %w", a, err)
		}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if err := giveStdin(state); err != nil {
		return err
	}
	return os.NewSyscallError("execve "+path, unix.Exec(path, argv, os.Environ()))
}

// giveStdin lets the program that follows read the state too.
func giveStdin(state []byte) error {
	fd, err := unix.MemfdCreate("state", 0)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	if _, err := f.Write(state); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return os.NewSyscallError("dup3", unix.Dup3(fd, 0, 0))
}

// hookState is what the templates of a hook name: {{id}}, {{pid}}, {{rootfs}},
// {{status}} and {{annotation "key"}}.
type hookState struct{ specs.State }

// placeholder is a whole template. The package text/template would keep the
// linker from leaving unused methods out of the daemon.
var placeholder = regexp.MustCompile(`\{\{\s*(\w+)(?:\s+"([^"]*)")?\s*\}\}`)

func (h *hookState) expand(text string) (_ string, err error) {
	expanded := placeholder.ReplaceAllStringFunc(text, func(s string) string {
		m := placeholder.FindStringSubmatch(s)
		v, valueErr := h.value(m[1], m[2])
		err = errors.Join(err, valueErr)
		return v
	})
	return expanded, err
}

func (h *hookState) value(name, key string) (string, error) {
	switch name {
	case "id":
		return h.ID, nil
	case "pid":
		return strconv.Itoa(h.Pid), nil
	case "rootfs":
		return h.rootfs()
	case "status":
		return string(h.Status), nil
	case "annotation":
		return h.Annotations[key], nil
	}
	return "", fmt.Errorf("template {{%s}} is not known", name)
}

func (h *hookState) rootfs() (string, error) {
	data, err := os.ReadFile(filepath.Join(h.Bundle, "config.json"))
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("spec of bundle %s: %w", h.Bundle, err)
	}
	if spec.Root == nil {
		return "", fmt.Errorf("spec of bundle %s: no root", h.Bundle)
	}
	if filepath.IsAbs(spec.Root.Path) {
		return spec.Root.Path, nil
	}
	return filepath.Join(h.Bundle, spec.Root.Path), nil
}
