// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"time"

	"slipway/internal/pb"
)

// The messages of containerd.task.v2.Task and containerd.task.v3.Task, which
// are the same (containerd/api runtime/task/v2/shim.proto). Requests and
// events that look alike on the wire share a type.

// processRequest names a process, of the State, Start, Delete, Pids, Pause,
// Resume, Wait, Stats and Connect requests; some have no exec id.
type processRequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
}

type pidResponse struct {
	Pid uint32 `pb:"1"`
}

// empty is google.protobuf.Empty.
type empty struct{}

type createTaskRequest struct {
	ID               string       `pb:"1"`
	Bundle           string       `pb:"2"`
	Rootfs           []*mountSpec `pb:"3"`
	Terminal         bool         `pb:"4"`
	Stdin            string       `pb:"5"`
	Stdout           string       `pb:"6"`
	Stderr           string       `pb:"7"`
	Checkpoint       string       `pb:"8"`
	ParentCheckpoint string       `pb:"9"`
	Options          *pb.Any      `pb:"10"`
}

type deleteResponse struct {
	Pid        uint32    `pb:"1"`
	ExitStatus uint32    `pb:"2"`
	ExitedAt   time.Time `pb:"3"`
}

type execProcessRequest struct {
	ID       string  `pb:"1"`
	ExecID   string  `pb:"2"`
	Terminal bool    `pb:"3"`
	Stdin    string  `pb:"4"`
	Stdout   string  `pb:"5"`
	Stderr   string  `pb:"6"`
	Spec     *pb.Any `pb:"7"`
}

type resizePtyRequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
	Width  uint32 `pb:"3"`
	Height uint32 `pb:"4"`
}

type stateResponse struct {
	ID         string    `pb:"1"`
	Bundle     string    `pb:"2"`
	Pid        uint32    `pb:"3"`
	Status     int32     `pb:"4"`
	Stdin      string    `pb:"5"`
	Stdout     string    `pb:"6"`
	Stderr     string    `pb:"7"`
	Terminal   bool      `pb:"8"`
	ExitStatus uint32    `pb:"9"`
	ExitedAt   time.Time `pb:"10"`
	ExecID     string    `pb:"11"`
}

type killRequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
	Signal uint32 `pb:"3"`
	All    bool   `pb:"4"`
}

type closeIORequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
	Stdin  bool   `pb:"3"`
}

type pidsResponse struct {
	Processes []*processInfo `pb:"1"`
}

type processInfo struct {
	Pid  uint32  `pb:"1"`
	Info *pb.Any `pb:"2"`
}

type checkpointTaskRequest struct {
	ID      string  `pb:"1"`
	Path    string  `pb:"2"`
	Options *pb.Any `pb:"3"`
}

type updateTaskRequest struct {
	ID          string            `pb:"1"`
	Resources   *pb.Any           `pb:"2"`
	Annotations map[string]string `pb:"3"`
}

type waitResponse struct {
	ExitStatus uint32    `pb:"1"`
	ExitedAt   time.Time `pb:"2"`
}

type statsResponse struct {
	Stats *pb.Any `pb:"1"`
}

type connectResponse struct {
	ShimPid uint32 `pb:"1"`
	TaskPid uint32 `pb:"2"`
	Version string `pb:"3"`
}

type shutdownRequest struct {
	ID  string `pb:"1"`
	Now bool   `pb:"2"`
}

// Options is containerd.runc.v1.Options, which callers give to Tasks.Create.
// The JSON form is what options.json in a bundle holds.
type Options struct {
	NoPivotRoot    bool   `pb:"1" json:"no_pivot_root,omitempty"`
	NoNewKeyring   bool   `pb:"2" json:"no_new_keyring,omitempty"`
	ShimCgroup     string `pb:"3" json:"shim_cgroup,omitempty"`
	IOUid          uint32 `pb:"4" json:"io_uid,omitempty"`
	IOGid          uint32 `pb:"5" json:"io_gid,omitempty"`
	BinaryName     string `pb:"6" json:"binary_name,omitempty"`
	Root           string `pb:"7" json:"root,omitempty"`
	SystemdCgroup  bool   `pb:"9" json:"systemd_cgroup,omitempty"`
	CriuImagePath  string `pb:"10" json:"criu_image_path,omitempty"`
	CriuWorkPath   string `pb:"11" json:"criu_work_path,omitempty"`
	TaskAPIAddress string `pb:"12" json:"task_api_address,omitempty"`
	TaskAPIVersion uint32 `pb:"13" json:"task_api_version,omitempty"`
}

type checkpointOptions struct {
	Exit                bool     `pb:"1"`
	OpenTCP             bool     `pb:"2"`
	ExternalUnixSockets bool     `pb:"3"`
	Terminal            bool     `pb:"4"`
	FileLocks           bool     `pb:"5"`
	EmptyNamespaces     []string `pb:"6"`
	CgroupsMode         string   `pb:"7"`
	ImagePath           string   `pb:"8"`
	WorkPath            string   `pb:"9"`
}

type processDetails struct {
	ExecID string `pb:"1"`
}

// The events (containerd/api events/task.proto).

// containerEvent is TaskPaused, TaskResumed and TaskOOM.
type containerEvent struct {
	ContainerID string `pb:"1"`
}

type taskCreate struct {
	ContainerID string       `pb:"1"`
	Bundle      string       `pb:"2"`
	Rootfs      []*mountSpec `pb:"3"`
	IO          *taskIO      `pb:"4"`
	Checkpoint  string       `pb:"5"`
	Pid         uint32       `pb:"6"`
}

type taskStart struct {
	ContainerID string `pb:"1"`
	Pid         uint32 `pb:"2"`
}

type taskDelete struct {
	ContainerID string    `pb:"1"`
	Pid         uint32    `pb:"2"`
	ExitStatus  uint32    `pb:"3"`
	ExitedAt    time.Time `pb:"4"`
	ID          string    `pb:"5"`
}

type taskIO struct {
	Stdin    string `pb:"1"`
	Stdout   string `pb:"2"`
	Stderr   string `pb:"3"`
	Terminal bool   `pb:"4"`
}

type taskExit struct {
	ContainerID string    `pb:"1"`
	ID          string    `pb:"2"`
	Pid         uint32    `pb:"3"`
	ExitStatus  uint32    `pb:"4"`
	ExitedAt    time.Time `pb:"5"`
}

type taskExecAdded struct {
	ContainerID string `pb:"1"`
	ExecID      string `pb:"2"`
}

type taskExecStarted struct {
	ContainerID string `pb:"1"`
	ExecID      string `pb:"2"`
	Pid         uint32 `pb:"3"`
}

type taskCheckpointed struct {
	ContainerID string `pb:"1"`
	Checkpoint  string `pb:"2"`
}

type mountSpec struct {
	Type    string   `pb:"1"`
	Source  string   `pb:"2"`
	Target  string   `pb:"3"`
	Options []string `pb:"4"`
}

// envelope carries an event to the daemon.
type envelope struct {
	Timestamp time.Time `pb:"1"`
	Namespace string    `pb:"2"`
	Topic     string    `pb:"3"`
	Event     *pb.Any   `pb:"4"`
}

type forwardRequest struct {
	Envelope *envelope `pb:"1"`
}

// runtimeInfo is the answer to -info.
type runtimeInfo struct {
	Name        string            `pb:"1"`
	Version     *runtimeVersion   `pb:"2"`
	Options     *pb.Any           `pb:"3"`
	Features    *pb.Any           `pb:"4"`
	Annotations map[string]string `pb:"5"`
}

type runtimeVersion struct {
	Version  string `pb:"1"`
	Revision string `pb:"2"`
}

// What a daemon of 2.3 or later writes to the standard input of `start`, and
// its answer (runtime/bootstrap/v1/bootstrap.proto).

type bootstrapParams struct {
	InstanceID    string       `pb:"1"`
	Namespace     string       `pb:"2"`
	LogLevel      int32        `pb:"3"`
	DaemonVersion string       `pb:"4"`
	TTRPCAddress  string       `pb:"5"`
	GRPCAddress   string       `pb:"6"`
	DaemonBinary  string       `pb:"7"`
	Extensions    []*extension `pb:"8"`
	SocketDir     string       `pb:"9"`
}

type extension struct {
	Value *pb.Any `pb:"1"`
}

type bootstrapResult struct {
	Version      int32             `pb:"1"`
	Address      string            `pb:"2"`
	Protocol     string            `pb:"3"`
	Capabilities []uint64          `pb:"4"`
	Metadata     map[string]string `pb:"5"`
}

func (m *mountSpec) GetType() string      { return m.Type }
func (m *mountSpec) GetSource() string    { return m.Source }
func (m *mountSpec) GetTarget() string    { return m.Target }
func (m *mountSpec) GetOptions() []string { return m.Options }
