// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func containerCommands() []command {
	return []command{
		{use: "create IMAGE|ROOTFS CONTAINER [COMMAND [ARG...]]", short: "Create a container", line: true, declare: createContainer},
		{use: "delete CONTAINER...", aliases: []string{"del", "remove", "rm"}, short: "Delete containers", declare: deleteContainers, names: containerIDs},
		{use: "info CONTAINER", short: "Print the record of a container", declare: containerInfo, names: containerIDs},
		{use: "list [FILTER...]", aliases: []string{"ls"}, short: "List containers", declare: listContainers},
		{use: "label CONTAINER KEY=VALUE...", short: "Set labels, or clear those whose value is empty", declare: labelContainer, names: containerIDs},
		{use: "checkpoint CONTAINER REF", short: "Make an image of a container", declare: checkpointContainer, names: containerIDs},
		{use: "restore CONTAINER REF", short: "Make a container of such an image", declare: restoreContainer},
	}
}

func containerIDs(s *session) (ids []string, err error) {
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	all, err := c.ListContainers(s.ctx)
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// errNoContainer is of every command that needs a container.
var errNoContainer = errors.New("container id must be provided")

func createContainer(f flagSet) action {
	flags := containerOf(f)
	f.String("pid-file", "", "Not used: it is a flag of what starts the container")
	f.Bool("no-pivot", false, "Not used: it is a flag of what starts the container")
	return func(s *session, args []string) error {
		if !f.Changed("cpu-shares") {
			flags.cpuShares = 0 // unlike run
		}
		n, err := flags.target(args)
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		_, err = s.newContainer(c, flags, n)
		return err
	}
}

func listContainers(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the ids")
	return func(s *session, filters []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		all, err := c.ListContainers(s.ctx, filters...)
		if err != nil {
			return err
		}
		if *quiet {
			for _, r := range all {
				fmt.Fprintln(s.out, r.ID)
			}
			return nil
		}
		w := s.table(4, 4, "CONTAINER\tIMAGE\tRUNTIME\t")
		for _, r := range all {
			image := r.Image
			if image == "" {
				image = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t\n", r.ID, image, r.Runtime.GetName())
		}
		return w.Flush()
	}
}

func deleteContainers(f flagSet) action {
	keep := f.Bool("keep-snapshot", false, "Keep the container's root file system")
	return func(s *session, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("must specify at least one container to delete: %w", errdefs.ErrInvalidArgument)
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		return s.each(args, "failed to delete container %q", func(id string) error {
			return c.DeleteContainer(s.ctx, id, !*keep, s.removeNetwork)
		})
	}
}

// containerRecord is how a container is printed.
type containerRecord struct {
	ID          string
	Labels      map[string]string
	Image       string
	Runtime     containerRuntime
	SnapshotKey string
	Snapshotter string
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Extensions  map[string]*anypb.Any
	SandboxID   string
	Spec        any `json:"Spec,omitempty"`
}

type containerRuntime struct {
	Name    string
	Options *anypb.Any
}

func containerInfo(f flagSet) action {
	onlySpec := f.Bool("spec", false, "Print only the runtime spec")
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return fmt.Errorf("%w: %w", errNoContainer, errdefs.ErrInvalidArgument)
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		r, err := c.Container(s.ctx, args[0])
		if err != nil {
			return err
		}
		if r.Extensions == nil {
			r.Extensions = make(map[string]*anypb.Any)
		}
		var spec any
		if r.Spec != nil {
			if spec, err = decode(r.Spec); err != nil {
				return err
			}
		}
		if *onlySpec {
			return s.json(spec)
		}
		return s.json(containerRecord{
			ID: r.ID, Labels: r.Labels, Image: r.Image,
			Runtime:     containerRuntime{r.Runtime.GetName(), r.Runtime.GetOptions()},
			SnapshotKey: r.SnapshotKey, Snapshotter: r.Snapshotter,
			CreatedAt: r.CreatedAt.AsTime(), UpdatedAt: r.UpdatedAt.AsTime(),
			Extensions: r.Extensions, SandboxID: r.Sandbox, Spec: spec,
		})
	}
}

func labelContainer(flagSet) action {
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return fmt.Errorf("%w: %w", errNoContainer, errdefs.ErrInvalidArgument)
		}
		changes := labels(args[1:])
		var mask []string
		for key := range changes {
			mask = append(mask, "labels."+key)
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		if _, err := c.Container(s.ctx, args[0]); err != nil {
			return err
		}
		resp, err := c.Containers().Update(s.ctx, &containersapi.UpdateContainerRequest{
			Container:  &containersapi.Container{ID: args[0], Labels: changes},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: mask},
		})
		if err != nil {
			return err
		}
		_, err = io.WriteString(s.out, strings.Join(pairs(resp.Container.Labels), ",")+"\n")
		return err
	}
}
