// SPDX-License-Identifier: Apache-2.0

// Package shim is the parent of the processes of a container, or of a group of
// containers. It starts them through a Driver, keeps their standard streams,
// reaps them, and tells the daemon, which may come and go meanwhile.
//
// One executable has several acts, told apart by its last argument:
//
//	start    run by the daemon in a bundle: starts the shim proper, or finds
//	         the one of the container's group, and prints its address; it is
//	         the shim proper itself if the daemon lets it (package resident)
//	(none)   the shim proper: serves the task API on the socket that it inherits
//	delete   run by the daemon when a shim is gone: removes what it left
//
// The package knows nothing of images, snapshots or the daemon's records.
package shim

import (
	"flag"
	"fmt"
	"io"
	"os"

	"slipway/internal/ident"
)

// Main runs the act that args, without the program's name, ask for.
func Main(args []string, in io.Reader, out io.Writer) error {
	var c Config
	var showVersion, showInfo bool
	flags := flag.NewFlagSet("containerd-shim-runc-v2", flag.ContinueOnError)
	flags.StringVar(&c.Namespace, "namespace", "", "namespace of the container")
	flags.StringVar(&c.ID, "id", "", "id of the container")
	flags.StringVar(&c.Bundle, "bundle", "", "directory of the container, if not the working directory")
	flags.StringVar(&c.Address, "address", "", "socket of the daemon")
	flags.BoolVar(&c.Debug, "debug", false, "log more")
	flags.BoolVar(&showVersion, "v", false, "print the version")
	flags.BoolVar(&showVersion, "version", false, "print the version")
	flags.BoolVar(&showInfo, "info", false, "print what the runtime can do, for options on standard input")
	flags.String("publish-binary", "", "not used: events go to TTRPC_ADDRESS")
	flags.String("socket", "", "not used: the socket is inherited")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case showVersion:
		printVersion(out)
		return nil
	case showInfo:
		return info(in, out)
	}
	if c.Namespace == "" {
		return fmt.Errorf("shim namespace cannot be empty")
	}
	if err := ident.Check(c.ID); err != nil {
		return err
	}
	switch act := flags.Arg(0); act {
	case "start":
		return start(c, in, out)
	case "delete":
		return cleanup(c, out)
	case "":
		c.TTRPCAddress = os.Getenv("TTRPC_ADDRESS")
		l, err := inheritedListener()
		if err != nil {
			return err
		}
		return serve(c, l)
	default:
		return fmt.Errorf("unknown act %q", act)
	}
}
