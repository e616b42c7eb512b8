// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"slipway/internal/pb"
	"slipway/internal/version"
)

// featuresType is the type URL of the JSON of OCI features.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// info prints what the runtime is and can do. Options are on standard input.
func info(in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(in, maxInput))
	if err != nil {
		return fmt.Errorf("runtime options: %w", err)
	}
	var a pb.Any
	if err := pb.Unmarshal(data, &a); err != nil {
		return fmt.Errorf("runtime options: %w", err)
	}
	o, err := parseOptions(&a)
	if err != nil {
		return err
	}
	if o.BinaryName != "" {
		if _, err := exec.LookPath(o.BinaryName); err != nil {
			return fmt.Errorf("failed to look up the path of %q: %w", o.BinaryName, err)
		}
	}
	r := runtimeInfo{
		Name:    "io.containerd.runc.v2",
		Version: &runtimeVersion{Version: version.Version, Revision: version.Revision},
	}
	if a.TypeURL != "" {
		r.Options = &a
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	if features, err := features(ctx, o); err == nil { // runc before 1.1 has none
		r.Features = &pb.Any{TypeURL: featuresType, Value: features}
	}
	_, err = out.Write(pb.Marshal(r))
	return err
}

// features is the JSON of what the runtime that o chooses can do.
func features(ctx context.Context, o Options) ([]byte, error) {
	if o.BinaryName == "" {
		return builtinFeatures()
	}
	reaper := newReaper()
	go reaper.serve(ctx)
	return newRunc("", "", os.TempDir(), o, reaper).features(ctx)
}

// printVersion prints the block of -v.
func printVersion(out io.Writer) {
	fmt.Fprintf(out, "%s:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n\n",
		filepath.Base(os.Args[0]), version.Version, version.Revision, runtime.Version())
}
