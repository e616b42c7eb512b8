// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// WithImageConfig takes arguments, environment and working directory from an
// image. args replace the image's command but not its entry point. The user
// of the image needs its files: see WithUser.
func WithImageConfig(img ocispec.Image, args []string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		p, config := process(s), img.Config
		cmd := config.Cmd
		if len(args) > 0 {
			cmd = args
		}
		p.Args = slices.Concat(config.Entrypoint, cmd)
		p.Env = mergeEnv(p.Env, config.Env)
		if !hasEnv(p.Env, "PATH") {
			p.Env = append([]string{DefaultPath}, p.Env...)
		}
		p.Cwd = path.Join("/", config.WorkingDir)
		return nil
	}
}

// WithArgs sets the command line of the process.
func WithArgs(args ...string) Opt {
	return edit(func(s *specs.Spec) { process(s).Args = args })
}

// WithCwd sets the working directory of the process.
func WithCwd(dir string) Opt {
	return edit(func(s *specs.Spec) { process(s).Cwd = dir })
}

// WithEnv sets variables, "name=value" each; a name alone removes one.
func WithEnv(env ...string) Opt {
	return edit(func(s *specs.Spec) { process(s).Env = mergeEnv(process(s).Env, env) })
}

// WithEnvFile sets the variables in the lines of a file. Empty lines and
// those that begin with # count for nothing.
func WithEnvFile(file string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		var env []string
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' {
				env = append(env, line)
			}
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("env file %s: %w", file, err)
		}
		process(s).Env = mergeEnv(process(s).Env, env)
		return nil
	}
}

// WithTTY gives the process a terminal.
func WithTTY() Opt {
	return edit(func(s *specs.Spec) {
		p := process(s)
		p.Terminal = true
		if !hasEnv(p.Env, "TERM") {
			p.Env = append(p.Env, "TERM=xterm")
		}
	})
}

// WithNewPrivileges lets programs raise privileges by set-user-id bits and
// file capabilities.
func WithNewPrivileges() Opt {
	return edit(func(s *specs.Spec) { process(s).NoNewPrivileges = false })
}

// WithAppArmor sets the AppArmor profile of the process by name.
func WithAppArmor(profile string) Opt {
	return edit(func(s *specs.Spec) { process(s).ApparmorProfile = profile })
}

// WithOOMScore sets how readily the kernel ends the process for its memory.
func WithOOMScore(score int) Opt {
	return edit(func(s *specs.Spec) { process(s).OOMScoreAdj = &score })
}

// WithRlimit sets a limit by its name, as RLIMIT_NOFILE.
func WithRlimit(name string, soft, hard uint64) Opt {
	return edit(func(s *specs.Spec) {
		p := process(s)
		p.Rlimits = slices.DeleteFunc(p.Rlimits, func(r specs.POSIXRlimit) bool { return r.Type == name })
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: name, Soft: soft, Hard: hard})
	})
}

// mergeEnv changes env by changes: a variable that is there keeps its place,
// and a name without a value goes.
func mergeEnv(env, changes []string) []string {
	out := slices.Clone(env)
	for _, c := range changes {
		name, _, set := strings.Cut(c, "=")
		if name == "" {
			continue
		}
		at := slices.IndexFunc(out, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		switch {
		case at < 0 && set:
			out = append(out, c)
		case at >= 0 && set:
			out[at] = c
		case at >= 0:
			out = slices.Delete(out, at, at+1)
		}
	}
	return out
}

func hasEnv(env []string, name string) bool {
	return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
}
