// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"slipway/client"
	"slipway/ctr/progress"
	"slipway/internal/mount"
)

func snapshotCommands() []command {
	return []command{
		{use: "commit NAME ACTIVE", short: "Make an active snapshot a committed one", declare: commitSnapshot},
		{use: "diff A [B]", short: "Print the difference of two snapshots, or of one and its parent", declare: diffSnapshots},
		{use: "info KEY", short: "Print what is known of a snapshot", declare: snapshotInfo},
		{use: "list", aliases: []string{"ls"}, short: "List snapshots", declare: listSnapshots},
		{use: "mounts TARGET KEY", aliases: []string{"m", "mount"}, short: "Print how to mount a snapshot", declare: snapshotMounts},
		{use: "prepare KEY [PARENT]", short: "Make a snapshot that can be written", declare: prepareSnapshot},
		{use: "delete KEY...", aliases: []string{"del", "remove", "rm"}, short: "Remove snapshots", declare: deleteSnapshots},
		{use: "label NAME KEY=VALUE...", short: "Set labels, or clear those whose value is empty", declare: labelSnapshot},
		{use: "tree", short: "Print snapshots below their parents", declare: snapshotTree},
		{use: "unpack DIGEST", short: "Make the snapshots of a manifest's layers", declare: unpackSnapshot},
		{use: "usage [KEY...]", short: "Print what snapshots take", declare: snapshotUsage},
		{use: "view KEY [PARENT]", short: "Make a snapshot that can be read", declare: viewSnapshot},
	}
}

// snapshots are the client and the name of the snapshotter.
func (s *session) snapshots() (*client.Client, string, error) {
	c, err := s.dial()
	if err != nil {
		return nil, "", err
	}
	name, err := c.Snapshotter(s.ctx, s.group.snapshotter)
	return c, name, err
}

// listAll returns the snapshots in the order that the daemon lists them.
func (s *session) listAll(c *client.Client, snapshotter string) (all []*snapshotsapi.Info, err error) {
	stream, err := c.Snapshots().List(s.ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: snapshotter})
	if err != nil {
		return nil, err
	}
	for {
		resp, err := stream.Recv()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, resp.Info...)
	}
}

func listSnapshots(flagSet) action {
	return func(s *session, _ []string) error {
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		all, err := s.listAll(c, name)
		if err != nil {
			return err
		}
		w := s.table(1, 1, "KEY\tPARENT\tKIND\t")
		for _, i := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t\n", i.Name, i.Parent, kindName(i.Kind))
		}
		return w.Flush()
	}
}

func kindName(k snapshotsapi.Kind) string {
	name := strings.ToLower(k.String())
	return strings.ToUpper(name[:1]) + name[1:]
}

// snapshotRecord is how a snapshot is printed.
type snapshotRecord struct {
	Kind    string
	Name    string
	Parent  string            `json:",omitempty"`
	Labels  map[string]string `json:",omitempty"`
	Created time.Time
	Updated time.Time
}

func snapshotInfo(flagSet) action {
	return func(s *session, args []string) error {
		if len(args) == 0 {
			return errUsage
		}
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		resp, err := c.Snapshots().Stat(s.ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: name, Key: args[0]})
		if err != nil {
			return err
		}
		i := resp.Info
		return s.json(snapshotRecord{kindName(i.Kind), i.Name, i.Parent, i.Labels, i.CreatedAt.AsTime(), i.UpdatedAt.AsTime()})
	}
}

func snapshotUsage(f flagSet) action {
	inBytes := f.BoolP("bytes", "b", false, "Print sizes in bytes")
	return func(s *session, keys []string) error {
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			all, err := s.listAll(c, name)
			if err != nil {
				return err
			}
			for _, i := range all {
				keys = append(keys, i.Name)
			}
		}
		w := s.table(1, 1, "KEY\tSIZE\tINODES\t")
		for _, key := range keys {
			u, err := c.Snapshots().Usage(s.ctx, &snapshotsapi.UsageRequest{Snapshotter: name, Key: key})
			if err != nil {
				return err
			}
			size := progress.Bytes(u.Size)
			if *inBytes {
				size = fmt.Sprint(u.Size)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t\n", key, size, u.Inodes)
		}
		return w.Flush()
	}
}

func snapshotTree(flagSet) action {
	return func(s *session, _ []string) error {
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		all, err := s.listAll(c, name)
		if err != nil {
			return err
		}
		children := make(map[string][]string)
		for _, i := range all {
			children[i.Parent] = append(children[i.Parent], i.Name)
		}
		s.branches(children, "", 0)
		return nil
	}
}

func (s *session) branches(children map[string][]string, parent string, depth int) {
	for _, name := range children[parent] {
		prefix := " "
		if depth > 0 {
			prefix = strings.Repeat("  ", depth) + `\_ `
		}
		fmt.Fprintln(s.out, prefix+name)
		s.branches(children, name, depth+1)
	}
}

func commitSnapshot(flagSet) action {
	return func(s *session, args []string) error {
		if len(args) != 2 {
			return errUsage
		}
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		_, err = c.Snapshots().Commit(s.ctx, &snapshotsapi.CommitSnapshotRequest{
			Snapshotter: name, Name: args[0], Key: args[1], Labels: rootLabels(),
		})
		return err
	}
}

// rootLabels keep what a person makes by hand from being collected.
func rootLabels() map[string]string {
	return map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}
}

// mounted is what prepare and view are asked to print.
type mounted struct {
	target string
	asJSON bool
}

func mountedOf(f flagSet) *mounted {
	m := &mounted{}
	f.StringVarP(&m.target, "target", "t", "", "Print how to mount it there")
	f.BoolVar(&m.asJSON, "mounts", false, "Print its mounts as JSON")
	return m
}

func prepareSnapshot(f flagSet) action {
	show := mountedOf(f)
	return func(s *session, args []string) error {
		return s.newSnapshot(args, show, func(c *client.Client, name, key, parent string) ([]*types.Mount, error) {
			resp, err := c.Snapshots().Prepare(s.ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: name, Key: key, Parent: parent, Labels: rootLabels()})
			return resp.GetMounts(), err
		})
	}
}

func viewSnapshot(f flagSet) action {
	show := mountedOf(f)
	return func(s *session, args []string) error {
		return s.newSnapshot(args, show, func(c *client.Client, name, key, parent string) ([]*types.Mount, error) {
			resp, err := c.Snapshots().View(s.ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: name, Key: key, Parent: parent, Labels: rootLabels()})
			return resp.GetMounts(), err
		})
	}
}

func (s *session) newSnapshot(args []string, show *mounted, make func(c *client.Client, name, key, parent string) ([]*types.Mount, error)) error {
	if len(args) < 1 || len(args) > 2 {
		return errUsage
	}
	c, name, err := s.snapshots()
	if err != nil {
		return err
	}
	mounts, err := make(c, name, args[0], arg(args, 1))
	if err != nil {
		return err
	}
	if show.target != "" {
		s.printMounts(show.target, mounts)
	}
	if show.asJSON {
		return s.json(mount.FromProto(mounts))
	}
	return nil
}

// printMounts prints mounts as commands of mount(8).
func (s *session) printMounts(target string, mounts []*types.Mount) {
	for _, m := range mounts {
		fmt.Fprintf(s.out, "mount -t %s %s %s -o %s\n", m.Type, m.Source, filepath.Join(target, m.Target), strings.Join(m.Options, ","))
	}
}

func snapshotMounts(f flagSet) action {
	temp := f.Bool("temp", false, "Mount it at a place of its own, and print how to bind that")
	return func(s *session, args []string) error {
		if len(args) != 2 {
			return errUsage
		}
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		resp, err := c.Snapshots().Mounts(s.ctx, &snapshotsapi.MountsRequest{Snapshotter: name, Key: args[1]})
		if err != nil {
			return err
		}
		// What only the daemon can mount it turns into what the system can.
		active, err := c.Mounts().Activate(s.ctx, &mountsapi.ActivateRequest{Name: "ctr" + args[1], Mounts: resp.Mounts, Temporary: *temp})
		switch {
		case err == nil:
			resp.Mounts = active.Info.GetSystem()
		case !errdefs.IsNotImplemented(err):
			return fmt.Errorf("activate error: %w", err)
		}
		s.printMounts(args[0], resp.Mounts)
		return nil
	}
}

func deleteSnapshots(flagSet) action {
	return func(s *session, keys []string) error {
		if len(keys) == 0 {
			return nil
		}
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		for _, key := range keys {
			if _, err := c.Snapshots().Remove(s.ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: name, Key: key}); err != nil {
				return fmt.Errorf("failed to remove %q: %w", key, err)
			}
		}
		_, err = c.Snapshots().Cleanup(s.ctx, &snapshotsapi.CleanupRequest{Snapshotter: name})
		if errdefs.IsNotImplemented(err) {
			return nil
		}
		return err
	}
}

func labelSnapshot(flagSet) action {
	return func(s *session, args []string) error {
		if len(args) == 0 {
			return errors.New("snapshot key must be provided")
		}
		changes := labels(args[1:])
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		var mask []string
		for _, key := range slices.Sorted(maps.Keys(changes)) {
			mask = append(mask, "labels."+key)
		}
		var now interface{ GetInfo() *snapshotsapi.Info }
		if len(mask) == 0 { // which would replace all
			now, err = c.Snapshots().Stat(s.ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: name, Key: args[0]})
		} else {
			now, err = c.Snapshots().Update(s.ctx, &snapshotsapi.UpdateSnapshotRequest{
				Snapshotter: name, Info: &snapshotsapi.Info{Name: args[0], Labels: changes}, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask},
			})
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(s.out, strings.Join(pairs(now.GetInfo().Labels), ","))
		return nil
	}
}

func unpackSnapshot(f flagSet) action {
	own := snapshotter(f)
	sync := f.Bool("sync-fs", false, "Flush the file system after unpacking")
	return func(s *session, args []string) error {
		d, err := digest.Parse(arg(args, 0))
		if err != nil {
			return err
		}
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		if *own != "" {
			name = *own
		}
		_, all, err := s.images([]string{"target.digest==" + d.String()})
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return errors.New("manifest not found")
		}
		top, _, err := c.UnpackWith(s.ctx, client.Descriptor(all[0].Target), client.UnpackOpts{Snapshotter: name, SyncFS: *sync})
		if err != nil {
			return err
		}
		fmt.Fprintln(s.out, top)
		return nil
	}
}

func diffSnapshots(f flagSet) action {
	mediaType := f.String("media-type", ocispec.MediaTypeImageLayerGzip, "Media type of the difference")
	ref := f.String("ref", "", "Name of the ingest")
	keep := f.Bool("keep", false, "Keep the difference in the content store")
	pairsOf := labelFlag(f)
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errors.New("snapshot id must be provided")
		}
		c, name, err := s.snapshots()
		if err != nil {
			return err
		}
		ctx, done, err := c.WithLease(s.ctx, 0)
		if err != nil {
			return err
		}
		defer s.later(done)
		r := &diffapi.DiffRequest{MediaType: *mediaType, Ref: *ref, Labels: labels(*pairsOf)}
		if *keep {
			maps.Copy(r.Labels, rootLabels())
		}
		if arg(args, 1) != "" {
			r.Left, r.Right, err = s.twoSnapshots(ctx, c, name, args[0], args[1])
		} else {
			r.Left, r.Right, err = s.withParent(ctx, c, name, args[0])
		}
		if err != nil {
			return err
		}
		resp, err := c.Diff().Diff(ctx, r)
		if err != nil {
			return err
		}
		return copyBlob(ctx, c.Store(), digest.Digest(resp.Diff.Digest), s.out)
	}
}

// withParent returns the mounts of a snapshot's parent and of itself.
func (s *session) withParent(ctx context.Context, c *client.Client, snapshotter, key string) (lower, upper []*types.Mount, err error) {
	st, err := c.Snapshots().Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil {
		return nil, nil, err
	}
	if lower, err = s.viewOf(ctx, c, snapshotter, st.Info.Parent); err != nil {
		return nil, nil, err
	}
	if st.Info.Kind == snapshotsapi.Kind_COMMITTED {
		upper, err = s.viewOf(ctx, c, snapshotter, key)
		return lower, upper, err
	}
	resp, err := c.Snapshots().Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: snapshotter, Key: key})
	return lower, resp.GetMounts(), err
}

func (s *session) twoSnapshots(ctx context.Context, c *client.Client, snapshotter, a, b string) (lower, upper []*types.Mount, err error) {
	if lower, err = s.anyView(ctx, c, snapshotter, a); err != nil {
		return nil, nil, err
	}
	upper, err = s.anyView(ctx, c, snapshotter, b)
	return lower, upper, err
}

func (s *session) anyView(ctx context.Context, c *client.Client, snapshotter, key string) ([]*types.Mount, error) {
	st, err := c.Snapshots().Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil {
		return nil, err
	}
	if st.Info.Kind == snapshotsapi.Kind_COMMITTED {
		return s.viewOf(ctx, c, snapshotter, key)
	}
	resp, err := c.Snapshots().Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: snapshotter, Key: key})
	return resp.GetMounts(), err
}

// viewOf makes a view for as long as the session lasts.
func (s *session) viewOf(ctx context.Context, c *client.Client, snapshotter, parent string) ([]*types.Mount, error) {
	key := fmt.Sprintf("ctr-diff-%d-%d", os.Getpid(), time.Now().UnixNano())
	resp, err := c.Snapshots().View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: snapshotter, Key: key, Parent: parent})
	if err != nil {
		return nil, err
	}
	s.atEnd(func(ctx context.Context) error {
		_, err := c.Snapshots().Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: snapshotter, Key: key})
		return ignoreNotFound(err) // collected already
	})
	return resp.Mounts, nil
}
