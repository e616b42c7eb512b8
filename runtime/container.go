// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"log/slog"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/runtime/hook"
)

// Config says what Create makes. Root, ID, Bundle and Spec are needed.
type Config struct {
	Root   string // directory of the state directories
	ID     string
	Bundle string // absolute
	Spec   *specs.Spec

	// Stdin, Stdout and Stderr become the process's; nil ones are /dev/null.
	// They are not used if the process has a terminal.
	Stdin, Stdout, Stderr *os.File
	// ConsoleSocket is a connected unix socket that gets the master of the
	// terminal. Without it the master is the process's Console.
	ConsoleSocket *os.File
	// PlainOutput keeps the terminal from ending lines with a carriage return,
	// for a caller that prints on another terminal, which does.
	PlainOutput bool
	// ExtraFiles become descriptors 3 and up of the process.
	ExtraFiles []*os.File
	// Rootfs is a detached mount to use as root file system in place of the
	// directory of the spec's root.path, which may then be missing.
	Rootfs *os.File

	PidFile      string // written before Create returns, if set
	NotifySocket string // path of systemd's NOTIFY_SOCKET on the host
	PidfdSocket  string // path of a unix socket that gets a pidfd of the init

	SystemdCgroup bool
	Rootless      bool
	NoPivot       bool
	NoNewKeyring  bool

	// Wait waits for hooks and helpers, for a caller that reaps all children.
	Wait hook.Waiter

	Log *slog.Logger
}

// Status is where a container is in its life.
type Status string

// The states of a container.
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// ProcessConfig says what Exec starts.
type ProcessConfig struct {
	Spec                  *specs.Process
	Stdin, Stdout, Stderr *os.File
	ConsoleSocket         *os.File
	PlainOutput           bool // see Config
	ExtraFiles            []*os.File
	PidFile               string
	PidfdSocket           string
	Cgroups               map[string]string // subgroup by controller; "" for all
	IgnorePaused          bool

	Log *slog.Logger
}

// Process is a child of this process that Create or Exec started.
type Process struct {
	Pid     int
	Console *os.File // master of its terminal; nil without one or if it was sent away
}
