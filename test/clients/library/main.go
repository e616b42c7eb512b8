// SPDX-License-Identifier: Apache-2.0

// Command library uses a containerd through upstream's Go client, as a program
// that embeds it does: pulls with unpack, leases, events, containers, tasks,
// execs, pause, metrics, import and export. It ends with "all done", or with
// what did not hold.
//
// usage: library ADDRESS REFERENCE
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func main() {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "library"), 5*time.Minute)
	defer cancel()
	if err := use(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("all done")
}

func use(ctx context.Context, address, ref string) error {
	c, err := containerd.New(address)
	if err != nil {
		return err
	}
	defer c.Close()
	image, err := pull(ctx, c, ref)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, *containerd.Client, containerd.Image) error
	}{
		{"lease", lease}, {"container", container}, {"exits", exits}, {"archive", roundTrip}, {"errors", kinds}, {"remove", remove},
	} {
		if err := step.do(ctx, c, image); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

func pull(ctx context.Context, c *containerd.Client, ref string) (containerd.Image, error) {
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
	image, err := c.Pull(ctx, ref, containerd.WithPullUnpack, containerd.WithResolver(resolver), containerd.WithPullLabel("of", "library"))
	if err != nil {
		return nil, err
	}
	unpacked, err := image.IsUnpacked(ctx, "overlayfs")
	if err != nil || !unpacked {
		return nil, fmt.Errorf("unpacked: %v: %w", unpacked, err)
	}
	size, err := image.Size(ctx)
	if err != nil || size < 1000 {
		return nil, fmt.Errorf("size %d: %w", size, err)
	}
	if image.Labels()["of"] != "library" {
		return nil, fmt.Errorf("labels: %v", image.Labels())
	}
	return image, nil
}

// lease keeps content from being collected for as long as it lasts.
func lease(ctx context.Context, c *containerd.Client, image containerd.Image) error {
	manager := c.LeasesService()
	l, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err != nil {
		return err
	}
	if err := manager.AddResource(ctx, l, leases.Resource{ID: image.Target().Digest.String(), Type: "content"}); err != nil {
		return err
	}
	held, err := manager.ListResources(ctx, l)
	if err != nil || len(held) != 1 {
		return fmt.Errorf("resources %v: %w", held, err)
	}
	name := image.Name()
	if err := c.ImageService().Delete(ctx, name); err != nil {
		return err
	}
	if _, err := c.ContentStore().Info(ctx, image.Target().Digest); err != nil {
		return fmt.Errorf("what the lease holds: %w", err)
	}
	if _, err := c.ImageService().Create(ctx, image.Metadata()); err != nil {
		return err
	}
	return manager.Delete(ctx, l, leases.SynchronousDelete)
}

// start makes a container and its task and starts it.
func start(ctx context.Context, c *containerd.Client, image containerd.Image, id string, out io.Writer, args ...string) (containerd.Container, containerd.Task, <-chan containerd.ExitStatus, error) {
	cont, err := c.NewContainer(ctx, id, containerd.WithImage(image), containerd.WithNewSnapshot(id, image),
		containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs(args...)), containerd.WithContainerLabels(map[string]string{"of": "library"}))
	if err != nil {
		return nil, nil, nil, err
	}
	task, err := cont.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, out, io.Discard)))
	if err != nil {
		return nil, nil, nil, errors.Join(err, cont.Delete(ctx, containerd.WithSnapshotCleanup))
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	return cont, task, exit, task.Start(ctx)
}

func container(ctx context.Context, c *containerd.Client, image containerd.Image) error {
	envelopes, failures := c.EventService().Subscribe(ctx, `topic~="/tasks/"`)
	var out bytes.Buffer
	cont, task, exit, err := start(ctx, c, image, "lib", &out, "sh", "-c", "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.05; done")
	if err != nil {
		return err
	}
	if err := execute(ctx, task); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if err := task.Pause(ctx); err != nil {
		return err
	}
	if s, err := task.Status(ctx); err != nil || s.Status != containerd.Paused {
		return fmt.Errorf("status %v: %w", s, err)
	}
	if err := task.Resume(ctx); err != nil {
		return err
	}
	if m, err := task.Metrics(ctx); err != nil || m.Data == nil {
		return fmt.Errorf("metrics %v: %w", m, err)
	}
	if pids, err := task.Pids(ctx); err != nil || len(pids) == 0 {
		return fmt.Errorf("pids %v: %w", pids, err)
	}
	limit := int64(64 << 20)
	if err := task.Update(ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := task.Kill(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	if status := <-exit; status.ExitCode() != 4 {
		return fmt.Errorf("exit code %d: %w", status.ExitCode(), status.Error())
	}
	if _, err := task.Delete(ctx); err != nil {
		return err
	}
	if got := out.String(); got != "up\nbye\n" {
		return fmt.Errorf("output %q", got)
	}
	if err := cont.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
		return err
	}
	return sequence(envelopes, failures)
}

func execute(ctx context.Context, task containerd.Task) error {
	spec, err := task.Spec(ctx)
	if err != nil {
		return err
	}
	p := *spec.Process
	p.Args = []string{"sh", "-c", "cat; exit 6"}
	var out bytes.Buffer
	process, err := task.Exec(ctx, "e1", &p, cio.NewCreator(cio.WithStreams(strings.NewReader("through"), &out, io.Discard)))
	if err != nil {
		return err
	}
	exit, err := process.Wait(ctx)
	if err != nil {
		return err
	}
	if err := process.Start(ctx); err != nil {
		return err
	}
	// The input ends when the client says so.
	if err := process.CloseIO(ctx, containerd.WithStdinCloser); err != nil {
		return err
	}
	status := <-exit
	if _, err := process.Delete(ctx); err != nil {
		return err
	}
	if status.ExitCode() != 6 || out.String() != "through" {
		return fmt.Errorf("exit code %d, output %q", status.ExitCode(), out.String())
	}
	return nil
}

// sequence checks the events of the container lib.
func sequence(envelopes <-chan *events.Envelope, failures <-chan error) error {
	want := []string{"/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/paused", "/tasks/resumed", "/tasks/exit", "/tasks/delete"}
	var got []string
	for len(got) == 0 || got[len(got)-1] != "/tasks/delete" {
		select {
		case e := <-envelopes:
			got = append(got, e.Topic)
			if v, err := typeurl.UnmarshalAny(e.Event); err == nil {
				if x, ok := v.(*eventtypes.TaskExit); ok && x.ContainerID != "lib" {
					return fmt.Errorf("an exit of %s", x.ContainerID)
				}
			}
		case err := <-failures:
			return fmt.Errorf("events: %w", err)
		case <-time.After(time.Minute):
			return fmt.Errorf("events so far: %v", got)
		}
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("events %v, not %v", got, want)
	}
	return nil
}

// exits runs containers that end at once, whose exit must not be lost.
func exits(ctx context.Context, c *containerd.Client, image containerd.Image) error {
	for i := range 10 {
		cont, task, exit, err := start(ctx, c, image, fmt.Sprint("quick", i), io.Discard, "sh", "-c", fmt.Sprint("exit ", i))
		if err != nil {
			return err
		}
		if status := <-exit; status.ExitCode() != uint32(i) {
			return fmt.Errorf("exit code %d, not %d", status.ExitCode(), i)
		}
		if _, err := task.Delete(ctx); err != nil {
			return err
		}
		if err := cont.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
			return err
		}
	}
	return nil
}

func roundTrip(ctx context.Context, c *containerd.Client, image containerd.Image) error {
	var tar bytes.Buffer
	if err := c.Export(ctx, &tar, archive.WithImage(c.ImageService(), image.Name())); err != nil {
		return err
	}
	imported, err := c.Import(ctx, &tar, containerd.WithIndexName("library/index:1"), containerd.WithImageRefTranslator(func(string) string { return "library/copy:1" }))
	if err != nil {
		return err
	}
	for _, i := range imported {
		if i.Name == image.Name() {
			continue // the archive names it itself
		}
		if err := c.ImageService().Delete(ctx, i.Name); err != nil {
			return err
		}
	}
	if len(imported) == 0 {
		return errors.New("nothing imported")
	}
	return nil
}

// kinds checks that errors keep their kind on the way.
func kinds(ctx context.Context, c *containerd.Client, image containerd.Image) error {
	if _, err := c.LoadContainer(ctx, "nosuch"); !errdefs.IsNotFound(err) {
		return fmt.Errorf("a container that is not there: %w", err)
	}
	if _, err := c.GetImage(ctx, "nosuch"); !errdefs.IsNotFound(err) {
		return fmt.Errorf("an image that is not there: %w", err)
	}
	if _, err := c.NewContainer(ctx, "bad/../name"); !errdefs.IsInvalidArgument(err) {
		return fmt.Errorf("a bad name: %w", err)
	}
	if _, err := c.ImageService().Create(ctx, image.Metadata()); !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("a name that is taken: %w", err)
	}
	return nil
}

func remove(ctx context.Context, c *containerd.Client, image containerd.Image) error {
	all, err := c.Containers(ctx)
	if err != nil || len(all) != 0 {
		return fmt.Errorf("containers %v: %w", all, err)
	}
	return c.ImageService().Delete(ctx, image.Name())
}
