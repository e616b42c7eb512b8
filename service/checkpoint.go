// SPDX-License-Identifier: Apache-2.0

package service

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/content"
	"slipway/diff"
	"slipway/internal/ident"
	"slipway/meta"
)

// Media types of what a checkpoint consists of.
const (
	mediaCheckpoint     = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
	mediaCheckpointSpec = "application/vnd.containerd.container.checkpoint.config.v1+proto"
)

// Checkpoint dumps a task. Without a path in its options the dump goes, as a
// tar archive and with the spec of the container, into the content store.
func (s *Tasks) Checkpoint(ctx context.Context, r *api.CheckpointTaskRequest) (*api.CheckpointTaskResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.db.Containers(scope).Get(ctx, r.ContainerID)
	if err != nil {
		return nil, err
	}
	path, err := dumpPath(c.ID, r.Options)
	if err != nil {
		return nil, err
	}
	if path != "" {
		if err := s.tasks.Checkpoint(ctx, scope.Namespace, c.ID, path, r.Options); err != nil {
			return nil, err
		}
		return &api.CheckpointTaskResponse{}, nil
	}
	if err := os.MkdirAll(s.checkpoints, 0o700); err != nil {
		return nil, err
	}
	if path, err = os.MkdirTemp(s.checkpoints, "dump-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(path)
	if err := s.tasks.Checkpoint(ctx, scope.Namespace, c.ID, path, r.Options); err != nil {
		return nil, err
	}
	return storeCheckpoint(ctx, s.db.Content(scope), path, c)
}

// dumpPath is where the options of runc want a dump.
func dumpPath(id string, a *anypb.Any) (string, error) {
	if a == nil {
		return "", nil
	}
	var o options.CheckpointOptions
	if err := typeurl.UnmarshalTo(a, &o); err != nil {
		return "", fmt.Errorf("container %s: checkpoint options of type %q: %w", id, a.TypeUrl, err)
	}
	return o.ImagePath, nil
}

func storeCheckpoint(ctx context.Context, store *meta.Content, dir string, c meta.Container) (*api.CheckpointTaskResponse, error) {
	dump, err := ingest(ctx, store, mediaCheckpoint, "checkpoint-"+dir, func(w io.Writer) error { return archive(w, dir) })
	if err != nil {
		return nil, fmt.Errorf("container %s: store checkpoint: %w", c.ID, err)
	}
	spec, err := proto.Marshal(c.Spec)
	if err != nil {
		return nil, err
	}
	config, err := ingest(ctx, store, mediaCheckpointSpec, "checkpoint-"+dir+"-spec", func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(spec))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("container %s: store spec of checkpoint: %w", c.ID, err)
	}
	return &api.CheckpointTaskResponse{Descriptors: []*types.Descriptor{descriptorProto(dump), descriptorProto(config)}}, nil
}

// ingest stores what fill writes as one blob.
func ingest(ctx context.Context, store *meta.Content, mediaType, ref string, fill func(io.Writer) error) (desc ocispec.Descriptor, err error) {
	w, err := store.Writer(ctx, content.WriterOpts{Ref: ref})
	if err != nil {
		return desc, err
	}
	defer w.Close()
	if err := fill(w); err != nil {
		return desc, err
	}
	st, err := w.Status()
	if err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: mediaType, Digest: w.Digest(), Size: st.Offset}
	if err := w.Commit(ctx, desc.Size, desc.Digest, nil); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, err
	}
	return desc, nil
}

// archive writes the files of a directory as a tar archive.
func archive(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewWriter(w)
	if err := t.AddFS(root.FS()); err != nil {
		return err
	}
	return t.Close()
}

// checkpointDir is where the checkpoint that a task is restored from is kept
// until the task is deleted: the runtime reads it at Start.
func (s *Tasks) checkpointDir(scope ident.Scope, id string) string {
	return filepath.Join(s.checkpoints, string(scope.Namespace), id)
}

func (s *Tasks) unpackCheckpoint(ctx context.Context, scope ident.Scope, id string, desc ocispec.Descriptor) (_ string, err error) {
	if desc.MediaType != mediaCheckpoint {
		return "", fmt.Errorf("unsupported checkpoint type %q: %w", desc.MediaType, errdefs.ErrInvalidArgument)
	}
	if _, err := digestOf(desc.Digest.String()); err != nil {
		return "", err
	}
	ra, err := s.db.Content(scope).ReaderAt(ctx, desc.Digest)
	if err != nil {
		return "", err
	}
	defer ra.Close()
	dir := s.checkpointDir(scope, id)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	if _, err := s.tasks.Get(ctx, scope.Namespace, id, ""); err == nil { // it still needs what is there
		return "", fmt.Errorf("task %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if _, err := diff.Apply(ctx, dir, io.NewSectionReader(ra, 0, ra.Size()), diff.ApplyOpts{}); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("checkpoint %s: %w", desc.Digest, err)
	}
	return dir, nil
}

func (s *Tasks) dropCheckpoint(scope ident.Scope, id string) {
	if ident.Check(id) == nil {
		os.RemoveAll(s.checkpointDir(scope, id))
	}
}
