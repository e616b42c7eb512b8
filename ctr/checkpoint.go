// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/client"
	"slipway/content"
	"slipway/image"
)

// A checkpoint is an image whose index lists, beside the container's image:
const (
	criuType        = "application/vnd.containerd.container.criu.checkpoint.criu.tar"         // the processes
	specType        = "application/vnd.containerd.container.checkpoint.config.v1+proto"       // the runtime spec
	optionsType     = "application/vnd.containerd.container.checkpoint.options.v1+proto"      // how it was made
	runtimeOptsType = "application/vnd.containerd.container.checkpoint.runtime.options+proto" // of the container

	runtimeNote     = "io.containerd.checkpoint.runtime" // annotations of the index
	snapshotterNote = "io.containerd.checkpoint.snapshotter"
	imageNote       = "image.name"
	checkpointLabel = "containerd.io/checkpoint"
)

// checkpoint is one that is being made.
type checkpoint struct {
	s     *session
	c     *client.Client
	ctx   context.Context // under a lease
	r     *containersapi.Container
	index ocispec.Index
}

func (s *session) checkpoint(c *client.Client, r *containersapi.Container) (*checkpoint, error) {
	ctx, done, err := c.WithLease(s.ctx, 0)
	if err != nil {
		return nil, err
	}
	s.atEnd(func(context.Context) error { return done() })
	p := &checkpoint{s: s, c: c, ctx: ctx, r: r}
	p.index = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Annotations: make(map[string]string)}
	return p, nil
}

func (p *checkpoint) add(d ocispec.Descriptor) {
	here := platforms.DefaultSpec()
	d.Platform = &ocispec.Platform{OS: here.OS, Architecture: here.Architecture}
	p.index.Manifests = append(p.index.Manifests, d)
}

// blob stores a document of the checkpoint.
func (p *checkpoint) blob(mediaType, ref string, data []byte, labels map[string]string) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	opts := content.WriterOpts{Ref: ref, Total: d.Size, Expected: d.Digest}
	_, err := ingest(p.ctx, p.c.Store(), opts, bytes.NewReader(data), labels)
	return d, err
}

func (p *checkpoint) image() error {
	resp, err := p.c.Images().Get(p.ctx, &imagesapi.GetImageRequest{Name: p.r.Image})
	if err != nil {
		return err
	}
	p.index.Manifests = append(p.index.Manifests, client.Descriptor(resp.Image.Target))
	return nil
}

// rw adds what the container has changed in its root file system.
func (p *checkpoint) rw() error {
	lower, upper, err := p.s.withParent(p.ctx, p.c, p.r.Snapshotter, p.r.SnapshotKey)
	if err != nil {
		return err
	}
	resp, err := p.c.Diff().Diff(p.ctx, &diffapi.DiffRequest{
		Left: lower, Right: upper, MediaType: ocispec.MediaTypeImageLayerGzip, Ref: "checkpoint-rw-" + p.r.SnapshotKey,
	})
	if err != nil {
		return err
	}
	p.add(client.Descriptor(resp.Diff))
	return nil
}

// task adds the processes, as the runtime writes them.
func (p *checkpoint) task(options *anypb.Any) error {
	resp, err := p.c.Tasks().Checkpoint(p.ctx, &tasksapi.CheckpointTaskRequest{ContainerID: p.r.ID, Options: options})
	if err != nil {
		return err
	}
	for _, d := range resp.Descriptors {
		p.add(client.Descriptor(d))
	}
	return nil
}

// document adds a message in its wrapping.
func (p *checkpoint) document(mediaType, ref string, a *anypb.Any) error {
	data, err := proto.Marshal(a)
	if err != nil {
		return err
	}
	d, err := p.blob(mediaType, p.r.ID+ref, data, nil)
	if err == nil {
		p.add(d)
	}
	return err
}

// record makes the image.
func (p *checkpoint) record(name string, labels map[string]string) error {
	data, err := json.Marshal(p.index)
	if err != nil {
		return err
	}
	refs := make(map[string]string)
	for i, d := range p.index.Manifests {
		refs[fmt.Sprintf("containerd.io/gc.ref.content.%d", i)] = d.Digest.String()
	}
	d, err := p.blob(ocispec.MediaTypeImageIndex, p.r.ID+"-index", data, refs)
	if err != nil {
		return err
	}
	_, err = p.c.Images().Create(p.ctx, &imagesapi.CreateImageRequest{
		Image: &imagesapi.Image{Name: name, Target: client.DescriptorProto(d), Labels: labels},
	})
	return err
}

// paused keeps a task still until the session ends, if it runs.
func (p *checkpoint) paused(t *client.Task) error {
	st, err := t.Status(p.ctx)
	if err != nil || st.Status != tasktypes.Status_RUNNING {
		return err
	}
	if err := t.Pause(p.ctx); err != nil {
		return err
	}
	p.s.atEnd(func(ctx context.Context) error { return ignoreNotFound(t.Resume(ctx)) })
	return nil
}

func checkpointTask(f flagSet) action {
	o := &runcoptions.CheckpointOptions{}
	f.BoolVar(&o.Exit, "exit", false, "End the container when it is written")
	f.StringVar(&o.ImagePath, "image-path", "", "Directory for the state, in place of an image")
	f.StringVar(&o.WorkPath, "work-path", "", "Directory for the log of criu")
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errNoContainer
		}
		c, t, err := s.task(args[0])
		if err != nil {
			return err
		}
		r, err := c.Container(s.ctx, args[0])
		if err != nil {
			return err
		}
		options, err := typeurl.MarshalAnyToProto(o)
		if err != nil {
			return err
		}
		p, err := s.checkpoint(c, r)
		if err != nil {
			return err
		}
		if err := errors.Join(p.paused(t), p.task(options)); err != nil || o.ImagePath != "" {
			return err
		}
		if r.Image != "" {
			p.index.Annotations[imageNote] = r.Image
			if err := p.image(); err != nil {
				return err
			}
		}
		if r.SnapshotKey != "" {
			if err := p.rw(); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("containerd.io/checkpoint/%s:%s", r.ID, time.Now().Format("01-02-2006-15:04:05"))
		if err := p.record(name, map[string]string{checkpointLabel: "true"}); err != nil {
			return err
		}
		fmt.Fprintln(s.out, name)
		return nil
	}
}

// needContainerAndRef checks the arguments of a checkpoint and a restore.
func needContainerAndRef(args []string) error {
	switch {
	case arg(args, 0) == "":
		return errNoContainer
	case arg(args, 1) == "":
		return errors.New("ref must be provided")
	}
	return nil
}

func checkpointContainer(f flagSet) action {
	rw := f.Bool("rw", false, "Include what the container has written")
	base := f.Bool("image", false, "Include the container's image")
	task := f.Bool("task", false, "Include the container's processes")
	return func(s *session, args []string) error {
		if err := needContainerAndRef(args); err != nil {
			return err
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		r, err := c.Container(s.ctx, args[0])
		if err != nil {
			return err
		}
		p, err := s.checkpoint(c, r)
		if err != nil {
			return err
		}
		p.index.Annotations[ocispec.AnnotationRefName] = r.Image
		p.index.Annotations[runtimeNote] = r.Runtime.GetName()
		p.index.Annotations[snapshotterNote] = r.Snapshotter
		if t, err := c.LoadTask(s.ctx, r.ID); err == nil {
			err = p.paused(t)
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		for _, part := range []struct {
			want bool
			add  func() error
		}{
			{len(r.Runtime.GetOptions().GetValue()) > 0, func() error { return p.document(runtimeOptsType, "-runtime-options", r.Runtime.Options) }},
			{*base, p.image},
			{*rw, p.rw},
			{*task, p.processes},
		} {
			if !part.want {
				continue
			}
			if err := part.add(); err != nil {
				return err
			}
		}
		return p.record(args[1], nil)
	}
}

// processes adds the task with the options that it was written by.
func (p *checkpoint) processes() error {
	options, err := typeurl.MarshalAnyToProto(&runcoptions.CheckpointOptions{FileLocks: true})
	if err != nil {
		return err
	}
	if err := p.task(options); err != nil {
		return err
	}
	return p.document(optionsType, "-checkpoint-options", options)
}

// restored is a checkpoint that is read back.
type restored struct {
	c     *client.Client
	index ocispec.Index
}

func (s *session) readCheckpoint(c *client.Client, name string) (*restored, error) {
	resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return nil, err
	}
	target := client.Descriptor(resp.Image.Target)
	if !image.IsIndex(target.MediaType) {
		return nil, fmt.Errorf("image %s: not a checkpoint: %w", name, errdefs.ErrInvalidArgument)
	}
	index, err := image.ReadIndex(s.ctx, c.Store(), target)
	return &restored{c, index}, err
}

// find returns the part of a media type.
func (r *restored) find(mediaType string) (*ocispec.Descriptor, error) {
	for _, d := range r.index.Manifests {
		if d.MediaType == mediaType {
			return &d, nil
		}
	}
	return nil, fmt.Errorf("checkpoint: no %s: %w", mediaType, errdefs.ErrNotFound)
}

// document reads a message in its wrapping.
func (r *restored) document(ctx context.Context, mediaType string) (*anypb.Any, error) {
	d, err := r.find(mediaType)
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	if err := copyBlob(ctx, r.c.Store(), d.Digest, &data); err != nil {
		return nil, err
	}
	a := &anypb.Any{}
	return a, proto.Unmarshal(data.Bytes(), a)
}

func restoreContainer(f flagSet) action {
	rw := f.Bool("rw", false, "Restore what the container had written")
	live := f.Bool("live", false, "Restore the container's processes")
	return func(s *session, args []string) error {
		if err := needContainerAndRef(args); err != nil {
			return err
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		from, err := s.readCheckpoint(c, args[1])
		if err != nil {
			return err
		}
		made, err := s.restore(c, from, args[0], *rw)
		if err != nil {
			return err
		}
		start := starting{id: args[0], made: made, flags: &taskFlags{}, tty: made.Spec.Process.Terminal}
		start.flags.detach = !start.tty
		if *live {
			if start.checkpoint, err = from.find(criuType); err != nil {
				return err
			}
		}
		return s.start(c, start)
	}
}

// restore makes the container that a checkpoint describes.
func (s *session) restore(c *client.Client, from *restored, id string, rw bool) (*client.MadeContainer, error) {
	notes := from.index.Annotations
	n := client.NewContainer{ID: id, Image: notes[ocispec.AnnotationRefName], Runtime: notes[runtimeNote]}
	base, err := s.prepare(c, notes[snapshotterNote], n.Image)
	if err != nil {
		return nil, err
	}
	defer s.later(base.done)
	n.Snapshotter = base.snapshotter
	if n.Parent, _, err = c.UnpackWith(base.ctx, client.Descriptor(base.image.Target), client.UnpackOpts{Snapshotter: base.snapshotter}); err != nil {
		return nil, err
	}
	spec, err := from.document(base.ctx, specType)
	if err != nil {
		return nil, err
	}
	if n.Spec, err = client.Spec(spec); err != nil {
		return nil, err
	}
	if n.RuntimeOptions, err = from.document(base.ctx, runtimeOptsType); ignoreNotFound(err) != nil {
		return nil, err
	}
	made, err := c.NewContainer(base.ctx, n)
	if err != nil || !rw {
		return made, err
	}
	d, err := from.find(ocispec.MediaTypeImageLayerGzip)
	if err == nil {
		_, err = c.Diff().Apply(base.ctx, &diffapi.ApplyRequest{Diff: client.DescriptorProto(*d), Mounts: made.Rootfs()})
	}
	if err != nil {
		return nil, errors.Join(err, s.remove(c, made))
	}
	return made, nil
}
