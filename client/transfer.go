// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	wire "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
)

// Progress is one step of a transfer. Name and Parents are refs of ingests,
// which make a tree; Progress and Total count bytes.
type Progress struct {
	Event           string
	Name            string
	Parents         []string
	Progress, Total int64
	Desc            *ocispec.Descriptor
}

// RegistryOpts says how the daemon reaches a registry.
type RegistryOpts struct {
	Username      string // empty with a Secret that is a refresh token
	Secret        string
	HostsDir      string      // directory of hosts.toml files
	DefaultScheme string      // "http" for a registry without TLS
	Headers       http.Header // of every request; the first value of each counts
	DebugHTTP     bool        // log requests
	Trace         bool        // log connections
	HTTPLog       io.Writer   // of DebugHTTP and Trace; the daemon's log if nil
}

// PullOpts says what to pull. The zero value is the image for this machine,
// not unpacked.
type PullOpts struct {
	Name         string   // in the image store, the reference if empty
	Platforms    []string // "linux/arm64"; that of this machine if empty
	AllPlatforms bool
	Snapshotter  string // to unpack with, the namespace's default if empty
	Labels       map[string]string
	Unpack       bool
	SkipMetadata bool // do not fetch the manifests of other platforms
	Registry     RegistryOpts
}

// Pull fetches the image ref from its registry. What it makes is kept by the
// lease of ctx or, without one, by a lease of the daemon's, which ends with the
// call even if this process is killed. progress, if not nil, is called in order
// and not after Pull has returned.
func (c *Client) Pull(ctx context.Context, ref string, opts PullOpts, progress func(Progress)) error {
	parsed, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return err
	}
	store := &wire.ImageStore{Name: opts.Name, Labels: opts.Labels, AllMetadata: !opts.SkipMetadata}
	if store.Name == "" {
		store.Name = ref
	}
	if len(parsed) == 0 {
		parsed = []*types.Platform{platformProto(platforms.DefaultSpec())}
	}
	if !opts.AllPlatforms {
		store.Platforms = parsed
	}
	if opts.Unpack {
		for _, p := range parsed {
			store.Unpacks = append(store.Unpacks, &wire.UnpackConfiguration{Platform: p, Snapshotter: opts.Snapshotter})
		}
	}
	source, end, err := c.registry(ctx, ref, opts.Registry)
	if err != nil {
		return err
	}
	defer end()
	return c.transfer(ctx, source, store, progress)
}

// PushOpts says what to push.
type PushOpts struct {
	Platforms []string // all that are there if empty
	Registry  RegistryOpts
}

// Push sends the image local to its registry under the reference remote.
func (c *Client) Push(ctx context.Context, local, remote string, opts PushOpts, progress func(Progress)) error {
	parsed, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return err
	}
	destination, end, err := c.registry(ctx, remote, opts.Registry)
	if err != nil {
		return err
	}
	defer end()
	return c.transfer(ctx, &wire.ImageStore{Name: local, Platforms: parsed}, destination, progress)
}

// Tag gives the image from another name, which it takes from any other image.
func (c *Client) Tag(ctx context.Context, from, to string) error {
	return c.transfer(ctx, &wire.ImageStore{Name: from}, &wire.ImageStore{Name: to}, nil)
}

// ExportOpts says what an archive contains.
type ExportOpts struct {
	Platforms           []string // that of this machine if empty
	AllPlatforms        bool
	SkipDockerManifest  bool // no manifest.json
	SkipNonDistributed  bool // no layers that may not be passed on
	ExtraReferenceNames []string
}

// Export writes images as a tar archive in the layout of OCI images.
func (c *Client) Export(ctx context.Context, w io.Writer, name string, opts ExportOpts, progress func(Progress)) error {
	parsed, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return err
	}
	stream, err := c.openStream(ctx, "export")
	if err != nil {
		return err
	}
	archive := &tarEnd{to: w}
	var received error
	got := make(chan struct{})
	stream.serve(func() {
		defer close(got)
		received = stream.receiveBytes(archive)
	})
	from := &wire.ImageStore{Name: name}
	for _, n := range opts.ExtraReferenceNames {
		from.ExtraReferences = append(from.ExtraReferences, &wire.ImageReference{Name: n})
	}
	err = c.transfer(ctx, from, &wire.ImageExportStream{
		Stream: stream.id, Platforms: parsed, AllPlatforms: opts.AllPlatforms,
		SkipCompatibilityManifest: opts.SkipDockerManifest, SkipNonDistributable: opts.SkipNonDistributed,
	}, progress)
	if err == nil && archive.wait(got) {
		stream.cancel()
		<-got
		received = nil
	}
	stream.close()
	if err == nil {
		err = received
	}
	return err
}

// tarEnd passes an archive on and tells when it has come to an end: the
// daemon of containerd 2.3.4 leaves its stream open.
type tarEnd struct {
	to io.Writer

	mu    sync.Mutex // guards what follows
	zeros int        // at the end of what has been written
	last  time.Time
}

// tarTrailer is how many zero bytes end an archive, at least.
const tarTrailer = 1024

func (t *tarEnd) Write(p []byte) (int, error) {
	tail := len(p) - len(bytes.TrimRight(p, "\x00"))
	t.mu.Lock()
	if tail == len(p) {
		tail += t.zeros
	}
	t.zeros, t.last = tail, time.Now()
	t.mu.Unlock()
	return t.to.Write(p)
}

// wait returns when the stream has ended, false, or when all has been quiet
// after what looks like the end of an archive, true.
func (t *tarEnd) wait(ended <-chan struct{}) bool {
	const quiet, limit = 100 * time.Millisecond, cleanupTimeout
	tick := time.NewTicker(quiet / 5)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < limit; {
		select {
		case <-ended:
			return false
		case <-tick.C:
			t.mu.Lock()
			over := t.zeros >= tarTrailer && time.Since(t.last) > quiet
			t.mu.Unlock()
			if over {
				return true
			}
		}
	}
	return false
}

// ImportOpts says how the images of an archive are named and unpacked.
type ImportOpts struct {
	Name         string // of the index, none if empty
	References   []*wire.ImageReference
	Platforms    []string // all if empty
	AllMetadata  bool
	Labels       map[string]string
	Compress     bool // layers that are not
	Unpack       bool
	Snapshotter  string
	ManifestsMax uint32
}

// Import reads images from a tar archive.
func (c *Client) Import(ctx context.Context, r io.Reader, opts ImportOpts, progress func(Progress)) error {
	parsed, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return err
	}
	store := &wire.ImageStore{
		Name: opts.Name, Labels: opts.Labels, Platforms: parsed, AllMetadata: opts.AllMetadata,
		ManifestLimit: opts.ManifestsMax, ExtraReferences: opts.References,
	}
	if opts.Unpack {
		if len(parsed) == 0 {
			parsed = []*types.Platform{platformProto(platforms.DefaultSpec())}
		}
		for _, p := range parsed {
			store.Unpacks = append(store.Unpacks, &wire.UnpackConfiguration{Platform: p, Snapshotter: opts.Snapshotter})
		}
	}
	stream, err := c.openStream(ctx, "import")
	if err != nil {
		return err
	}
	// A transfer that does not get all of r cannot succeed.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stream.serve(func() {
		if err := stream.sendBytes(r); err != nil && !errdefs.IsUnavailable(err) {
			fail(err)
		}
	})
	err = c.transfer(ctx, &wire.ImageImportStream{Stream: stream.id, ForceCompress: opts.Compress}, store, progress)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	stream.close()
	return err
}

// transfer runs one transfer and passes its progress on.
func (c *Client) transfer(ctx context.Context, source, destination proto.Message, progress func(Progress)) error {
	src, err := anyOf(source)
	if err != nil {
		return err
	}
	dst, err := anyOf(destination)
	if err != nil {
		return err
	}
	r := &transferapi.TransferRequest{Source: src, Destination: dst, Options: &transferapi.TransferOptions{}}
	if progress != nil {
		s, err := c.openStream(ctx, "progress")
		if err != nil {
			return err
		}
		defer s.close()
		s.serve(func() { s.watch(progress) })
		r.Options.ProgressStream = s.id
	}
	_, err = c.Transfer().Transfer(ctx, r)
	return err
}

// watch calls progress until the daemon ends the stream.
func (s *stream) watch(progress func(Progress)) {
	for {
		a, err := s.recv()
		if err != nil {
			return
		}
		var m wire.Progress
		if unmarshalAny(a, &m) != nil {
			continue // of a later daemon
		}
		p := Progress{Event: m.Event, Name: m.Name, Parents: m.Parents, Progress: m.Progress, Total: m.Total}
		if m.Desc != nil {
			d := Descriptor(m.Desc)
			p.Desc = &d
		}
		progress(p)
	}
}

// registry describes one end of a transfer, with the streams that it needs
// until end is called.
func (c *Client) registry(ctx context.Context, ref string, opts RegistryOpts) (_ *wire.OCIRegistry, end func(), err error) {
	var open []*stream
	end = func() {
		for _, s := range open {
			s.close()
		}
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	res := &wire.RegistryResolver{HostDir: opts.HostsDir, DefaultScheme: opts.DefaultScheme, HttpDebug: httpDebug(opts)}
	for k := range opts.Headers {
		if res.Headers == nil {
			res.Headers = make(map[string]string)
		}
		res.Headers[k] = opts.Headers.Get(k)
	}
	if opts.Username != "" || opts.Secret != "" {
		s, err := c.openStream(ctx, "auth")
		if err != nil {
			return nil, nil, err
		}
		open = append(open, s)
		s.serve(func() { s.authenticate(ref, opts) })
		res.AuthStream = s.id
	}
	if opts.HTTPLog != nil && res.HttpDebug != wire.HTTPDebug_DISABLED {
		s, err := c.openStream(ctx, "logs")
		if err != nil {
			return nil, nil, err
		}
		open = append(open, s)
		s.serve(func() { s.receiveBytes(opts.HTTPLog) })
		res.LogsStream = s.id
	}
	return &wire.OCIRegistry{Reference: ref, Resolver: res}, end, nil
}

func httpDebug(opts RegistryOpts) wire.HTTPDebug {
	switch {
	case opts.DebugHTTP && opts.Trace:
		return wire.HTTPDebug_BOTH
	case opts.DebugHTTP:
		return wire.HTTPDebug_DEBUG
	case opts.Trace:
		return wire.HTTPDebug_TRACE
	}
	return wire.HTTPDebug_DISABLED
}

// authenticate answers the daemon's questions for credentials of ref.
func (s *stream) authenticate(ref string, opts RegistryOpts) {
	for {
		a, err := s.recv()
		if err != nil {
			return
		}
		var question wire.AuthRequest
		if unmarshalAny(a, &question) != nil {
			return
		}
		answer := &wire.AuthResponse{AuthType: wire.AuthType_NONE}
		switch {
		case question.Reference != ref: // not what they are for
		case opts.Username == "":
			answer = &wire.AuthResponse{AuthType: wire.AuthType_REFRESH, Secret: opts.Secret}
		default:
			answer = &wire.AuthResponse{AuthType: wire.AuthType_CREDENTIALS, Username: opts.Username, Secret: opts.Secret}
		}
		if err := s.send(answer); err != nil && !errors.Is(err, io.EOF) {
			return
		}
	}
}

func parsePlatforms(names []string) ([]*types.Platform, error) {
	var out []*types.Platform
	for _, n := range names {
		p, err := platforms.Parse(n)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w: %w", n, err, errdefs.ErrInvalidArgument)
		}
		out = append(out, platformProto(p))
	}
	return out, nil
}
