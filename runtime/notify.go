// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// notifyInside is the directory in the container where its service manager's
// socket is (sd_notify(3)).
const notifyInside = "/run/notify"

// NotifyPath is where, on the host, the messages of a container to the service
// manager arrive: the caller of Start listens there and passes them on.
func (c *Container) NotifyPath() string { return filepath.Join(c.dir, "notify", "notify.sock") }

// offerNotify shows the container the directory of that socket. The socket of
// the host itself would let it speak for the whole unit.
func (n *creation) offerNotify() error {
	if n.NotifySocket == "" {
		return nil
	}
	path := n.c.NotifyPath()
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	s, p := *n.Spec, *n.Spec.Process
	s.Mounts = append(slices.Clip(s.Mounts), specs.Mount{
		Destination: notifyInside, Source: filepath.Dir(path), Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
	p.Env = append(slices.Clip(p.Env), "NOTIFY_SOCKET="+notifyInside+"/"+filepath.Base(path))
	s.Process = &p
	n.Spec = &s
	return nil
}
