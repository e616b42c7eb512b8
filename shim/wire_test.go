// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bytes"
	"testing"

	"github.com/containerd/containerd/api/events"
	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"

	"slipway/internal/pb"
	"slipway/internal/pb/pbtest"
)

// peers pairs the messages of this package with those that were published.
var peers = []struct {
	ours   any
	theirs proto.Message
}{
	{createTaskRequest{}, &task.CreateTaskRequest{}},
	{pidResponse{}, &task.CreateTaskResponse{}},
	{pidResponse{}, &task.StartResponse{}},
	{processRequest{}, &task.StartRequest{}},
	{processRequest{}, &task.DeleteRequest{}},
	{processRequest{}, &task.StateRequest{}},
	{processRequest{}, &task.WaitRequest{}},
	{deleteResponse{}, &task.DeleteResponse{}},
	{execProcessRequest{}, &task.ExecProcessRequest{}},
	{resizePtyRequest{}, &task.ResizePtyRequest{}},
	{stateResponse{}, &task.StateResponse{}},
	{killRequest{}, &task.KillRequest{}},
	{closeIORequest{}, &task.CloseIORequest{}},
	{pidsResponse{}, &task.PidsResponse{}},
	{checkpointTaskRequest{}, &task.CheckpointTaskRequest{}},
	{updateTaskRequest{}, &task.UpdateTaskRequest{}},
	{waitResponse{}, &task.WaitResponse{}},
	{statsResponse{}, &task.StatsResponse{}},
	{connectResponse{}, &task.ConnectResponse{}},
	{shutdownRequest{}, &task.ShutdownRequest{}},
	{bootstrapParams{}, &bootstrap.BootstrapParams{}},
	{bootstrapResult{}, &bootstrap.BootstrapResult{}},
	{Options{}, &runcoptions.Options{}},
	{checkpointOptions{}, &runcoptions.CheckpointOptions{}},
	{processDetails{}, &runcoptions.ProcessDetails{}},
	{containerEvent{}, &events.TaskPaused{}},
	{containerEvent{}, &events.TaskResumed{}},
	{containerEvent{}, &events.TaskOOM{}},
	{taskCreate{}, &events.TaskCreate{}},
	{taskStart{}, &events.TaskStart{}},
	{taskDelete{}, &events.TaskDelete{}},
	{taskExit{}, &events.TaskExit{}},
	{taskExecAdded{}, &events.TaskExecAdded{}},
	{taskExecStarted{}, &events.TaskExecStarted{}},
	{taskCheckpointed{}, &events.TaskCheckpointed{}},
	{forwardRequest{}, &ttrpcevents.ForwardRequest{}},
	{runtimeInfo{}, &types.RuntimeInfo{}},
}

func TestMessagesAreThePublishedOnes(t *testing.T) {
	for _, p := range peers {
		pbtest.Same(t, p.ours, p.theirs)
	}
}

func FuzzReadParams(f *testing.F) {
	f.Add([]byte{})
	f.Add(pb.Marshal(bootstrapParams{InstanceID: "a", Namespace: "n", SocketDir: "/d", Extensions: []*extension{{&pb.Any{TypeURL: optionsType}}}}))
	f.Add(pb.Marshal(pb.Any{TypeURL: optionsType, Value: pb.Marshal(Options{Root: "/r"})}))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := Config{ID: "a"}
		if err := c.readParams(bytes.NewReader(in), func(string) string { return "" }); err == nil && c.socketDir == "" {
			t.Error("the directory of sockets is not set")
		}
	})
}
