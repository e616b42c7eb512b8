// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"errors"
	"fmt"

	"slipway/client"
	"slipway/ctr/progress"
)

func progressFlag(f flagSet) *string {
	return f.String("progress", "auto", "How to show the progress: auto, tty, plain, json")
}

func pull(f flagSet) action {
	registry, labelPairs, platform := registryOf(f), labelFlag(f), platformFlag(f)
	name := snapshotter(f)
	all := f.Bool("all-platforms", false, "Pull the image for every platform")
	skip := f.Bool("skip-metadata", false, "Do not fetch the manifests of other platforms")
	f.Bool("all-metadata", false, "Fetch the manifests of other platforms")
	f.MarkHidden("all-metadata")
	chain := f.Bool("print-chainid", false, "Print the name of the image's snapshot, with --local")
	atOnce := f.Int("max-concurrent-downloads", 0, "Most layers to fetch at once, with --local")
	sync := f.Bool("sync-fs", false, "Flush the file system after unpacking, with --local")
	local := f.Bool("local", false, "Unpack from here")
	show := progressFlag(f)
	return func(s *session, args []string) error {
		ref := arg(args, 0)
		if ref == "" {
			return errors.New("please provide an image reference to pull")
		}
		if !*local {
			if err := needLocal(f, "max-concurrent-downloads", "print-chainid", "skip-verify", "tlscacert", "tlscert", "tlskey"); err != nil {
				return err
			}
		}
		opts := client.PullOpts{
			Platforms: *platform, AllPlatforms: *all, Snapshotter: *name, Labels: labels(*labelPairs), Unpack: !*local, SkipMetadata: *skip,
		}
		var err error
		if opts.Registry, err = registry.remote(s, ref); err != nil {
			return err
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		mode, err := progress.ParseMode(*show)
		if err != nil {
			return err
		}
		p := progress.New(s.out, fmt.Sprintf("Pulling from OCI Registry (%s)", ref), mode)
		if *local {
			l := localPull{ref: ref, registry: registry, platforms: *platform, all: *all, metadata: !*skip, layers: true, labels: labels(*labelPairs), atOnce: *atOnce, progress: p}
			return s.pullLocal(c, l, client.UnpackOpts{Snapshotter: *name, SyncFS: *sync}, *chain)
		}
		err = c.Pull(s.ctx, ref, opts, p.Update)
		p.End(err)
		return err
	}
}

func push(f flagSet) action {
	registry, platform := registryOf(f), platformFlag(f)
	manifest := f.String("manifest", "", "Digest of the manifest to push, with --local")
	manifestType := f.String("manifest-type", "application/vnd.oci.image.manifest.v1+json", "Media type of that manifest")
	f.Int("max-concurrent-uploaded-layers", 0, "Most layers to send at once, with --local")
	f.Bool("allow-non-distributable-blobs", false, "Push layers that may not be passed on, with --local")
	local := f.Bool("local", false, "Push from here, not by the transfer service")
	show := progressFlag(f)
	referrers := f.Bool("referrers", false, "Copy what refers to the image in its registry: signatures, SBOMs and the like")
	return func(s *session, args []string) error {
		remote, name := arg(args, 0), arg(args, 1)
		if remote == "" {
			return errors.New("please provide a remote image reference to push")
		}
		if name == "" {
			name = remote
		}
		if !*local {
			err := needLocal(f, "manifest", "manifest-type", "max-concurrent-uploaded-layers", "allow-non-distributable-blobs",
				"skip-verify", "tlscacert", "tlscert", "tlskey", "http-dump", "http-trace")
			if err != nil {
				return err
			}
		}
		mode, err := progress.ParseMode(*show)
		if err != nil {
			return err
		}
		opts := client.PushOpts{Platforms: *platform}
		if opts.Registry, err = registry.remote(s, remote); err != nil {
			return err
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		if *local {
			err = s.pushLocal(c, localPush{remote, name, *manifest, *manifestType, registry, *platform})
		} else {
			p := progress.New(s.out, fmt.Sprintf("Pushing to OCI Registry (%s)", remote), mode)
			err = c.Push(s.ctx, name, remote, opts, p.Update)
			p.End(err)
		}
		if err != nil || !*referrers {
			return err
		}
		return s.pushReferrers(c, registry, name, remote)
	}
}
