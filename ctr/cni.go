// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
	"slipway/cni"
)

// cniName names the extension of containers that have a network.
const cniName = "ctr.cni-containerd.metadata"

type cniMetadata struct{ EnableCni bool }

func cniExtension() (map[string]*anypb.Any, error) {
	data, err := json.Marshal(cniMetadata{true})
	if err != nil {
		return nil, err
	}
	return map[string]*anypb.Any{cniName: {TypeUrl: cniName, Value: data}}, nil
}

// ports reads the values of --publish.
func (f *containerFlags) ports() (ports []cni.Port, err error) {
	if len(f.publish) > 0 && !f.cni {
		return nil, errors.New("--publish requires \"--cni\" flag")
	}
	for _, text := range f.publish {
		p, err := cni.ParsePort(text)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// networkID is what plugins know a container by.
func (s *session) networkID(id string) string { return s.globals.namespace + "-" + id }

// connect connects a task that has been created, and tells it of the name
// servers unless spec mounts a file that does.
func (s *session) connect(t *client.Task, spec *specs.Spec, ports []cni.Port) error {
	networks, err := cni.Load(cni.FromEnv())
	if err != nil {
		return err
	}
	result, err := networks.Setup(s.ctx, s.networkID(t.Container()), cni.NamespaceOf(t.Pid()), ports)
	if err != nil {
		return err
	}
	text := result.ResolvConf()
	mounted := slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == resolvConf })
	if text == "" || mounted {
		return nil
	}
	if err := writeInside(t.Pid(), resolvConf, text); err != nil {
		s.log().Warn("name servers of the network are not set", "error", err)
	}
	return nil
}

const resolvConf = "/etc/resolv.conf"

// writeInside writes a file as the process pid sees it. Links of the container
// lead nowhere outside of its root.
func writeInside(pid uint32, path, text string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.WriteFile(strings.TrimPrefix(path, "/"), []byte(text), 0o644)
}

// disconnect is for a container that connect was called for, whether or not
// that succeeded.
func (s *session) disconnect(id string) {
	ctx, cancel := s.cleanup()
	defer cancel()
	networks, err := cni.Load(cni.FromEnv())
	if err == nil {
		err = networks.Remove(ctx, s.networkID(id), "", nil)
	}
	if err != nil {
		s.log().Error("failed to remove network", "error", err)
	}
}

// removeNetwork disconnects a container that was connected by run.
func (s *session) removeNetwork(r *containersapi.Container) error {
	if _, connected := r.Extensions[cniName]; !connected {
		return nil
	}
	networks, err := cni.Load(cni.FromEnv())
	if errors.Is(err, fs.ErrNotExist) || errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return networks.Remove(s.ctx, s.networkID(r.ID), "", nil)
}
