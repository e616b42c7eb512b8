// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"

	"slipway/client"
	"slipway/content"
)

func contentCommands() []command {
	return []command{
		{use: "active [REGEXP]", short: "List what is being written", declare: activeContent},
		{use: "check [FILTER...]", short: "Verify blobs", declare: checkContent},
		{use: "delete DIGEST...", aliases: []string{"del", "remove", "rm"}, short: "Delete blobs", declare: deleteContent},
		{use: "edit DIGEST", short: "Edit a blob, and print the digest of the result", declare: editContent},
		{use: "fetch REF", short: "Fetch the content of an image", declare: fetchContent},
		{use: "fetch-object REMOTE OBJECT [HINT...]", short: "Print a manifest or blob of a registry", declare: fetchObject},
		{use: "fetch-blob REMOTE DIGEST...", short: "Print blobs of a registry", declare: fetchBlob},
		{use: "get DIGEST", short: "Print a blob", declare: getContent},
		{use: "ingest KEY", short: "Store a blob from standard input", declare: ingestContent},
		{use: "list [FILTER...]", aliases: []string{"ls"}, short: "List blobs", declare: listContent},
		{use: "push-object REMOTE OBJECT TYPE", short: "Push a blob to a registry", declare: pushObject},
		{use: "label DIGEST KEY=VALUE...", short: "Set labels, or clear those whose value is empty", declare: labelContent},
		{use: "prune", short: "Remove what is not needed", sub: pruneCommands},
	}
}

// store is the content of the session's namespace.
func (s *session) store() (*client.Store, error) {
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	return c.Store(), nil
}

func listContent(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the digests")
	return func(s *session, filters []string) error {
		store, err := s.store()
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(s.out, 1, 8, 1, '\t', 0)
		if !*quiet {
			fmt.Fprintln(w, "DIGEST\tSIZE\tAGE\tLABELS")
		}
		err = store.Walk(s.ctx, func(i content.Info) error {
			if *quiet {
				fmt.Fprintln(s.out, i.Digest)
				return nil
			}
			text := strings.Join(pairs(i.Labels), ",")
			if text == "" {
				text = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", i.Digest, decimalSize(i.Size), age(time.Since(i.CreatedAt)), text)
			return nil
		}, filters...)
		return errors.Join(err, w.Flush())
	}
}

func activeContent(f flagSet) action {
	timeout := f.DurationP("timeout", "t", envDuration("CONTAINERD_FETCH_TIMEOUT"), "Most time that it may take")
	f.String("root", "/tmp/content", "Not used")
	return func(s *session, args []string) error {
		store, err := s.store()
		if err != nil {
			return err
		}
		ctx := s.ctx
		if *timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, *timeout)
			defer cancel()
		}
		matches, err := regexp.Compile(arg(args, 0))
		if err != nil {
			return err
		}
		all, err := store.ListStatuses(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(s.out, 1, 8, 1, '\t', 0)
		fmt.Fprintln(w, "REF\tSIZE\tAGE\t")
		for _, st := range all {
			if matches.MatchString(st.Ref) {
				fmt.Fprintf(w, "%s\t%s\t%s\t\n", st.Ref, decimalSize(st.Offset), age(time.Since(st.StartedAt)))
			}
		}
		return w.Flush()
	}
}

func envDuration(name string) time.Duration {
	d, err := time.ParseDuration(os.Getenv(name))
	if err != nil {
		return 0
	}
	return d
}

func deleteContent(flagSet) action {
	return func(s *session, args []string) error {
		store, err := s.store()
		if err != nil {
			return err
		}
		return s.each(args, "could not delete %s", func(text string) error {
			d, err := digest.Parse(text)
			if err != nil {
				return err
			}
			if err := store.Delete(s.ctx, d); err != nil {
				return ignoreNotFound(err)
			}
			fmt.Fprintln(s.out, d)
			return nil
		})
	}
}

func getContent(flagSet) action {
	return func(s *session, args []string) error {
		d, err := digest.Parse(arg(args, 0))
		if err != nil {
			return err
		}
		store, err := s.store()
		if err != nil {
			return err
		}
		return copyBlob(s.ctx, store, d, s.out)
	}
}

func copyBlob(ctx context.Context, p content.Provider, d digest.Digest, to io.Writer) error {
	ra, err := p.ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer ra.Close()
	_, err = io.Copy(to, io.NewSectionReader(ra, 0, ra.Size()))
	return err
}

func ingestContent(f flagSet) action {
	size := f.Int64("expected-size", 0, "What the size has to be")
	expected := f.String("expected-digest", "", "What the digest has to be")
	return func(s *session, args []string) error {
		ref := arg(args, 0)
		if ref == "" {
			return errors.New("must specify a transaction reference")
		}
		if *expected != "" {
			if _, err := digest.Parse(*expected); err != nil {
				return err
			}
		}
		store, err := s.store()
		if err != nil {
			return err
		}
		_, err = ingest(s.ctx, store, content.WriterOpts{Ref: ref, Total: *size, Expected: digest.Digest(*expected)}, s.in, nil)
		return err
	}
}

// ingest stores what r holds. What is there already is no error.
func ingest(ctx context.Context, store content.Store, opts content.WriterOpts, r io.Reader, labels map[string]string) (digest.Digest, error) {
	w, err := store.Writer(ctx, opts)
	if errdefs.IsAlreadyExists(err) {
		return opts.Expected, nil
	}
	if err != nil {
		return "", err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return "", err
	}
	// A blob that another namespace has is there before it is written.
	if complete := opts.Expected != "" && opts.Total > 0 && st.Offset == opts.Total; !complete {
		if err := w.Truncate(0); err != nil {
			return "", err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 1<<20)); err != nil {
			return "", err
		}
	}
	d := w.Digest()
	err = w.Commit(ctx, opts.Total, opts.Expected, labels)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return "", fmt.Errorf("failed commit on ref %q: commit failed: %w", opts.Ref, err)
	}
	return d, nil
}

func labelContent(flagSet) action {
	return func(s *session, args []string) error {
		d, err := digest.Parse(arg(args, 0))
		if err != nil {
			return err
		}
		info := content.Info{Digest: d, Labels: labels(args[1:])}
		var fields []string
		for key := range info.Labels {
			fields = append(fields, "labels."+key)
		}
		store, err := s.store()
		if err != nil {
			return err
		}
		if len(fields) == 0 {
			info, err = store.Info(s.ctx, d)
		} else {
			info, err = store.Update(s.ctx, info, fields...)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(s.out, strings.Join(pairs(info.Labels), ","))
		return nil
	}
}

func editContent(f flagSet) action {
	validate := f.String("validate", "", "Check the result for a format")
	editor := f.String("editor", os.Getenv("EDITOR"), "Program to edit with (EDITOR)")
	return func(s *session, args []string) error {
		if *validate != "" {
			return errors.New("validating the edit result not supported")
		}
		d, err := digest.Parse(arg(args, 0))
		if err != nil {
			return err
		}
		store, err := s.store()
		if err != nil {
			return err
		}
		tmp, err := os.CreateTemp(os.Getenv("XDG_RUNTIME_DIR"), "edit-")
		if err != nil {
			return err
		}
		defer os.Remove(tmp.Name())
		defer tmp.Close()
		if err := copyBlob(s.ctx, store, d, tmp); err != nil {
			return err
		}
		run := osexec.CommandContext(s.ctx, "sh", "-c", *editor+" "+tmp.Name())
		run.Stdin, run.Stdout, run.Stderr = s.in, s.out, s.err
		if err := run.Run(); err != nil {
			return fmt.Errorf("editor %s: %w", *editor, err)
		}
		// The editor may have put another file in its place.
		edited, err := os.Open(tmp.Name())
		if err != nil {
			return err
		}
		defer edited.Close()
		result, err := ingest(s.ctx, store, content.WriterOpts{Ref: "edit-" + d.String()}, edited, nil)
		if err != nil {
			return err
		}
		fmt.Fprintln(s.out, result)
		return nil
	}
}

func pruneCommands() []command {
	return []command{{use: "references", short: "Let go of the layers of images that are unpacked", declare: pruneReferences}}
}

// layerReference is how a manifest keeps a layer.
const layerReference = "containerd.io/gc.ref.content.l."

func pruneReferences(f flagSet) action {
	async := f.Bool("async", false, "Do not wait for the collection")
	dry := f.Bool("dry", false, "Only tell what would be done")
	return func(s *session, _ []string) error {
		store, err := s.store()
		if err != nil {
			return err
		}
		log := s.log()
		if *dry {
			log = logTo(s.err, slog.LevelDebug)
			log.Debug("dry run, no changes will be applied")
		}
		err = store.Walk(s.ctx, func(i content.Info) error {
			var fields []string
			for key := range i.Labels {
				if strings.HasPrefix(key, layerReference) {
					fields = append(fields, "labels."+key)
				}
			}
			if len(fields) == 0 {
				return nil
			}
			for _, f := range slices.Sorted(slices.Values(fields)) {
				log.Debug("Removing label", "digest", i.Digest, "label", strings.TrimPrefix(f, "labels."))
			}
			if *dry {
				return nil
			}
			_, err := store.Update(s.ctx, content.Info{Digest: i.Digest}, fields...)
			if errdefs.IsNotFound(err) {
				return nil // removed meanwhile
			}
			return err
		})
		if err != nil || *async || *dry {
			return err
		}
		return s.collect()
	}
}
