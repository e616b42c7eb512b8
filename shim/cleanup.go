// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/mount"
	"slipway/internal/pb"
)

// cleanupTimeout bounds the runtime's delete.
const cleanupTimeout = 30 * time.Second

// cleanup removes what a container left whose shim is gone, and prints how it
// ended. It works from any state that a kill leaves, and again after itself.
func cleanup(c Config, out io.Writer) error {
	bundle := c.Bundle
	if bundle == "" {
		bundle = "."
	}
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return err
	}
	reaper := newReaper()
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	go reaper.serve(ctx)
	derr := newDriver(c.Namespace, c.ID, bundle, savedOptions(bundle), reaper).Delete(ctx, true)
	merr := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"))
	c.removeSocket(bundle)
	if err := errors.Join(derr, merr); err != nil {
		return fmt.Errorf("delete of container %s: %w", c.ID, err)
	}
	_, err = out.Write(pb.Marshal(deleteResponse{
		Pid: uint32(savedPid(bundle)), ExitStatus: 128 + uint32(unix.SIGKILL), ExitedAt: time.Now(),
	}))
	return err
}

// savedOptions reads what create left; without it the defaults hold.
func savedOptions(bundle string) (o Options) {
	if data, err := os.ReadFile(filepath.Join(bundle, "options.json")); err == nil {
		json.Unmarshal(data, &o) // half a file is as good as none
	}
	if data, err := os.ReadFile(filepath.Join(bundle, "runtime")); err == nil {
		o.BinaryName = string(bytes.TrimSpace(data))
	}
	return o
}

// savedPid returns the pid of the init, 0 if it was never made.
func savedPid(bundle string) int {
	data, err := os.ReadFile(filepath.Join(bundle, "init.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(string(bytes.TrimSpace(data)))
	return pid
}

// removeSocket removes the socket of a dead shim. The shim of a group that
// still answers keeps its own.
func (c *Config) removeSocket(bundle string) {
	config, err := readBundle(bundle)
	if err != nil {
		return
	}
	dir, err := os.Readlink(filepath.Join(bundle, "s"))
	if err != nil {
		return
	}
	c.socketDir = dir
	if path := c.socket(config.group(c.ID)); !answers(path) {
		os.Remove(path)
	}
}
