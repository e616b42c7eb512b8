// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"slipway/internal/cgstat"
	"slipway/internal/pb"
	"slipway/internal/resident"
)

// Config is what a shim is told by its arguments, by its environment, and by
// the parameters on its standard input.
type Config struct {
	Namespace    string
	ID           string // container that the process is started for
	Bundle       string // its directory; the working directory if empty
	Address      string // the daemon's socket for gRPC
	TTRPCAddress string // the daemon's socket for events
	Debug        bool

	socketDir string
	options   Options
	reply     replyFormat
	resident  bool // this process becomes the shim proper
}

// A replyFormat is how `start` tells where the shim listens.
type replyFormat int

const (
	replyAddress replyFormat = iota // the bare address: containerd before 1.7
	replyJSON                       // since 1.7, which says so in the environment
	replyProto                      // since 2.3, which sends parameters
)

const (
	maxInput         = 10 << 20
	defaultSocketDir = "/run/containerd/s"
	protocolVersion  = 3 // a sandbox's shim of this version is used without start
	legacyVersion    = 2
)

// groupAnnotations name the group of a container: all of one group are in one
// shim. The first that is set counts.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// readParams completes c from standard input. A daemon before 2.3 writes the
// runtime options there, if anything, and relies on flags and environment.
func (c *Config) readParams(in io.Reader, env func(string) string) error {
	data, err := io.ReadAll(io.LimitReader(in, maxInput))
	if err != nil {
		return fmt.Errorf("bootstrap parameters: %w", err)
	}
	c.socketDir = defaultSocketDir
	c.TTRPCAddress = env("TTRPC_ADDRESS")
	var p bootstrapParams
	if err := pb.Unmarshal(data, &p); err == nil && p.Namespace != "" && p.InstanceID == c.ID {
		return c.applyParams(&p)
	}
	if env("MAX_SHIM_VERSION") != "" {
		c.reply = replyJSON
	}
	var a pb.Any
	if err := pb.Unmarshal(data, &a); err != nil {
		return fmt.Errorf("runtime options: %w", err)
	}
	c.options, err = parseOptions(&a)
	return err
}

func (c *Config) applyParams(p *bootstrapParams) (err error) {
	c.reply = replyProto
	c.Namespace, c.Address, c.TTRPCAddress = p.Namespace, p.GRPCAddress, p.TTRPCAddress
	c.Debug = c.Debug || p.LogLevel < 0
	if p.SocketDir != "" {
		c.socketDir = p.SocketDir
	}
	for _, e := range p.Extensions {
		if e.Value != nil && typeName(e.Value) == optionsType {
			c.options, err = parseOptions(e.Value)
		}
	}
	return err
}

// start makes sure that a shim serves the container's group, and prints where.
func start(c Config, in io.Reader, out io.Writer) error {
	if err := c.readParams(in, os.Getenv); err != nil {
		return err
	}
	l, address, err := c.ensure()
	if err != nil {
		return fmt.Errorf("start of the shim for %s: %w", c.ID, err)
	}
	if l != nil {
		defer l.Close()
		if c.resident = c.reply == replyProto && os.Getenv(resident.Env) != ""; c.resident {
			err = c.place(os.Getpid())
		} else {
			err = c.spawn(l)
		}
	}
	if err == nil {
		_, err = out.Write(c.result(address))
	}
	if err == nil && c.resident {
		err = c.stay(l)
	}
	if err != nil && l != nil {
		os.Remove(socketPath(address))
	}
	return err
}

// stay makes this process the shim proper. The daemon reads the output to its
// end, which this is.
func (c *Config) stay(l *net.UnixListener) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	null.Close()
	return serve(*c, l)
}

// result encodes the reply in the form that the daemon reads.
func (c *Config) result(address string) []byte {
	switch c.reply {
	case replyProto:
		r := bootstrapResult{Version: protocolVersion, Address: address, Protocol: "ttrpc"}
		if c.resident {
			r.Metadata = map[string]string{resident.Key: strconv.Itoa(os.Getpid())}
		}
		return pb.Marshal(r)
	case replyJSON:
		data, _ := json.Marshal(struct { // a struct of strings cannot fail
			Version  int    `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{legacyVersion, address, "ttrpc"})
		return data
	}
	return []byte(address)
}

// ensure returns the address of the group's shim, and the socket to serve
// there if there is no shim yet.
func (c *Config) ensure() (l *net.UnixListener, address string, err error) {
	config, err := readBundle(".")
	if err != nil {
		return nil, "", err
	}
	if err := linkSocketDir(c.socketDir); err != nil {
		return nil, "", err
	}
	path := c.socket(config.group(c.ID))
	address = "unix://" + path
	l, err = listen(path)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, address, nil // a shim that answers
	}
	return l, address, err
}

// group returns the name of the group of container id.
func (c bundleConfig) group(id string) string {
	for _, a := range groupAnnotations {
		if g := c.Annotations[a]; g != "" {
			return g
		}
	}
	return id
}

// socket returns the path of a group's socket. Its name is a hash because the
// address of a socket has at most 108 bytes.
func (c *Config) socket(group string) string {
	name := filepath.Join(c.Address, c.Namespace, group)
	return filepath.Join(c.socketDir, fmt.Sprintf("%x", sha256.Sum256([]byte(name))))
}

// socketPath strips the scheme off an address.
func socketPath(address string) string { return strings.TrimPrefix(address, "unix://") }

// linkSocketDir leaves a link to the directory of sockets in the bundle.
func linkSocketDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Symlink(dir, "s"); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// listen makes a socket at path. A socket that a dead shim left is replaced;
// if a live one answers, the error is EADDRINUSE.
func listen(path string) (*net.UnixListener, error) {
	for {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false) // it lives on in another process
			return l, os.Chmod(path, 0o600)
		}
		if !errors.Is(err, unix.EADDRINUSE) || answers(path) {
			return nil, err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// answers reports whether a process listens at path.
func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// spawn starts the process that serves l.
func (c *Config) spawn(l *net.UnixListener) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	args := []string{self, "-namespace", c.Namespace, "-id", c.ID, "-address", c.Address}
	if c.Debug {
		args = append(args, "-debug")
	}
	p, err := os.StartProcess(self, args, &os.ProcAttr{
		Env:   c.environ(),
		Files: []*os.File{null, null, null, socket},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return err
	}
	if err := c.place(p.Pid); err != nil {
		p.Kill()
		p.Wait()
		return err
	}
	return p.Release()
}

// environ is that of the shim proper. Each variable occurs once: a Go program
// sees the first of two, which would be the daemon's.
func (c *Config) environ() []string {
	set := map[string]string{
		"GOMAXPROCS":        "1", // it waits; each thread more costs memory
		"OTEL_SERVICE_NAME": "containerd-shim-" + c.ID,
		"TTRPC_ADDRESS":     c.TTRPCAddress,
	}
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		_, ours := set[k]
		return ours
	})
	for k, v := range set {
		env = append(env, k+"="+v)
	}
	return env
}

// place sets what belongs to the process of the shim and not to its code.
func (c *Config) place(pid int) error {
	if os.Getenv("SCHED_CORE") != "" {
		if err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, uintptr(pid), unix.PR_SCHED_CORE_SCOPE_THREAD_GROUP, 0); err != nil {
			return os.NewSyscallError("prctl PR_SCHED_CORE", err)
		}
	}
	if c.options.ShimCgroup != "" {
		if err := cgstat.Join(pid, c.options.ShimCgroup); err != nil {
			return fmt.Errorf("cgroup of the shim: %w", err)
		}
	}
	return adjustOOMScore(pid)
}

// adjustOOMScore makes the kernel prefer the shim to the daemon, by one.
func adjustOOMScore(pid int) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid()))
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("oom_score_adj of the daemon: %w", err)
	}
	text := strconv.Itoa(min(score+1, 1000))
	err = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(text), 0)
	if errors.Is(err, os.ErrPermission) {
		return nil // lowering it below what was inherited takes CAP_SYS_RESOURCE
	}
	return err
}
