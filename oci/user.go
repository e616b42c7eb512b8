// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxDatabase is the largest /etc/passwd or /etc/group in bytes.
const maxDatabase = 16 << 20

// WithUser runs the process as user, in the form "user[:group]" of names or
// numbers; an empty one means root's. Names, the primary group and the supplementary
// groups come from /etc/passwd and /etc/group below the directory root,
// which symbolic links cannot leave. Without a root only numbers are known.
func WithUser(name, root string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		u, err := lookup(name, root)
		if err != nil {
			return fmt.Errorf("user %q: %w", name, err)
		}
		old := process(s).User
		u.Umask = old.Umask
		process(s).User = u
		return nil
	}
}

func lookup(spec, root string) (specs.User, error) {
	name, group, explicit := strings.Cut(spec, ":")
	name, group = cmp.Or(name, "0"), cmp.Or(group, "0")
	if strings.Contains(group, ":") {
		return specs.User{}, fmt.Errorf("not of the form user[:group]: %w", errdefs.ErrInvalidArgument)
	}
	users, groups, err := databases(root)
	if err != nil {
		return specs.User{}, err
	}
	entry, err := findUser(users, name)
	if err != nil {
		return specs.User{}, err
	}
	gid := uint32(entry.Gid)
	if explicit {
		if gid, err = findGroup(groups, group); err != nil {
			return specs.User{}, err
		}
	}
	all := []uint32{gid}
	for _, g := range groups {
		if entry.Name != "" && slices.Contains(g.List, entry.Name) && inRange(g.Gid) && !slices.Contains(all, uint32(g.Gid)) {
			all = append(all, uint32(g.Gid))
		}
	}
	return specs.User{UID: uint32(entry.Uid), GID: gid, AdditionalGids: all}, nil
}

// findUser finds a user by number or name. A number need not be listed: its
// group is then root's.
func findUser(users []user.User, name string) (user.User, error) {
	id, isNumber, err := number(name)
	if err != nil {
		return user.User{}, err
	}
	at := slices.IndexFunc(users, func(u user.User) bool {
		if isNumber {
			return u.Uid == id
		}
		return u.Name == name
	})
	if at < 0 && isNumber {
		u := user.User{Uid: id}
		if id == 0 {
			u.Name = "root" // may be in /etc/group all the same
		}
		return u, nil
	}
	if at < 0 {
		return user.User{}, fmt.Errorf("no users found: %w", errdefs.ErrNotFound)
	}
	if u := users[at]; !inRange(u.Uid) || !inRange(u.Gid) {
		return user.User{}, fmt.Errorf("/etc/passwd: ids %d:%d out of range: %w", u.Uid, u.Gid, errdefs.ErrInvalidArgument)
	}
	return users[at], nil
}

func findGroup(groups []user.Group, name string) (uint32, error) {
	id, isNumber, err := number(name)
	if err != nil || isNumber {
		return uint32(id), err
	}
	for _, g := range groups {
		if g.Name == name && inRange(g.Gid) {
			return uint32(g.Gid), nil
		}
	}
	return 0, fmt.Errorf("group %q: no groups found: %w", name, errdefs.ErrNotFound)
}

// number reads an id. One that is out of range is not taken for a name.
func number(s string) (id int, ok bool, err error) {
	id, err = strconv.Atoi(s)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false, nil
	}
	if err != nil || !inRange(id) {
		return 0, false, fmt.Errorf("id %s out of range: %w", s, errdefs.ErrInvalidArgument)
	}
	return id, true, nil
}

func inRange(id int) bool { return id >= 0 && id <= math.MaxInt32 }

// databases reads the users and groups of a root, none if it has no files.
func databases(root string) (users []user.User, groups []user.Group, err error) {
	if root == "" {
		return nil, nil, nil
	}
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	err = readIn(dir, "/etc/passwd", func(r io.Reader) (err error) {
		users, err = user.ParsePasswd(r)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = readIn(dir, "/etc/group", func(r io.Reader) (err error) {
		groups, err = user.ParseGroup(r)
		return err
	})
	return users, groups, err
}

// readIn reads a regular file as a process with that root would find it. The
// file may be anything and may lead anywhere: it is looked at before it is
// opened, so that a FIFO or a device cannot block or act. An absent file is
// not read.
func readIn(root *os.File, name string, read func(io.Reader) error) error {
	handle, err := pathrs.OpenatInRoot(root, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer handle.Close()
	info, err := handle.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxDatabase {
		return fmt.Errorf("%s: not a regular file of at most %d bytes: %w", name, maxDatabase, errdefs.ErrInvalidArgument)
	}
	f, err := pathrs.Reopen(handle, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	if err := read(io.LimitReader(f, maxDatabase)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
