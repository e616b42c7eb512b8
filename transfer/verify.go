// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Verifier asks the programs of a directory whether an image may be pulled:
// each of them, in the order of their names, must end with status 0. What it
// prints is the reason. Nil allows everything, and so does a directory that is
// empty or missing.
type Verifier struct {
	Dir     string
	Max     int           // programs to ask, the others are skipped; negative for all
	Timeout time.Duration // of one program
}

// maxReason is how much of a program's output is kept, in bytes.
const maxReason = 32 << 10

// verify fails with errdefs.ErrPermissionDenied if a program rejects the
// image, and in another way if one cannot be asked.
func (v *Verifier) verify(ctx context.Context, name string, desc ocispec.Descriptor) error {
	if v == nil || v.Dir == "" {
		return nil
	}
	entries, err := os.ReadDir(v.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("image verifiers: %w", err)
	}
	input, err := json.Marshal(desc)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if v.Max >= 0 && i >= v.Max {
			slog.Warn("image verifiers are skipped", "directory", v.Dir, "asked", v.Max, "there", len(entries))
			break
		}
		reason, err := v.ask(ctx, filepath.Join(v.Dir, e.Name()), name, desc, input)
		var rejected *exec.ExitError
		switch {
		case err == nil:
			slog.Debug("image verifier allows", "verifier", e.Name(), "image", name, "reason", reason)
		case errors.As(err, &rejected) && rejected.Exited():
			return fmt.Errorf("image verifier bindir blocked pull of %s with digest %s for reason: verifier %s rejected image (exit code %d): %s: %w",
				name, desc.Digest, e.Name(), rejected.ExitCode(), reason, errdefs.ErrPermissionDenied)
		default:
			return fmt.Errorf("image verifier %s: image %s: %w", e.Name(), name, err)
		}
	}
	return nil
}

func (v *Verifier) ask(ctx context.Context, program, name string, desc ocispec.Descriptor, input []byte) (reason string, err error) {
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-name", name, "-digest", desc.Digest.String(), "-stdin-media-type", ocispec.MediaTypeDescriptor)
	out := &head{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), out, logLines{program}
	cmd.WaitDelay = time.Second // for what the program leaves running
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return strings.TrimSpace(string(out.kept)), err
}

// head keeps the first bytes of what is written.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	if n := maxReason - len(h.kept); n > 0 {
		h.kept = append(h.kept, p[:min(n, len(p))]...)
	}
	return len(p), nil
}

// logLines logs what a program says on its standard error.
type logLines struct{ program string }

func (l logLines) Write(p []byte) (int, error) {
	slog.Debug("image verifier says", "verifier", l.program, "text", string(bytes.TrimSpace(p)))
	return len(p), nil
}
