// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A command is one word of the command line. Its flags may stand between its
// arguments, unless those are a command line of their own.
type command struct {
	name, usage, args string
	min, max          int // arguments; a max of -1 is any number
	commandLine       bool
	setup             func(*flags) func(*app, []string) error
}

// allCommands are in the order of the help text.
func allCommands() []command {
	return []command{
		{name: "checkpoint", usage: "checkpoint a running container", args: "<container-id>", min: 1, max: 1, setup: checkpoint},
		{name: "create", usage: "create a container", args: "<container-id>", min: 1, max: 1, setup: create},
		{name: "delete", usage: "delete any resources held by the container often used with detached container", args: "<container-id>", min: 1, max: 1, setup: remove},
		{name: "events", usage: "display container events such as OOM notifications, cpu, memory, and IO usage statistics", args: "<container-id>", min: 1, max: 1, setup: events},
		{name: "exec", usage: "execute new process inside the container", args: "<container-id> <command> [command options]  || -p process.json <container-id>", min: 1, max: -1, commandLine: true, setup: execute},
		{name: "kill", usage: "kill sends the specified signal (default: SIGTERM) to the container's init process", args: "<container-id> [signal]", min: 1, max: 2, setup: kill},
		{name: "list", usage: "lists containers started by runc with the given root", setup: list},
		{name: "pause", usage: "pause suspends all processes inside the container", args: "<container-id>", min: 1, max: 1, setup: pause},
		{name: "ps", usage: "ps displays the processes running inside a container", args: "<container-id> [ps options]", min: 1, max: -1, commandLine: true, setup: ps},
		{name: "restore", usage: "restore a container from a previous checkpoint", args: "<container-id>", min: 1, max: 1, setup: restore},
		{name: "resume", usage: "resumes all processes that have been previously paused", args: "<container-id>", min: 1, max: 1, setup: resume},
		{name: "run", usage: "create and run a container", args: "<container-id>", min: 1, max: 1, setup: run},
		{name: "spec", usage: "create a new specification file", setup: spec},
		{name: "start", usage: "executes the user defined process in a created container", args: "<container-id>", min: 1, max: 1, setup: start},
		{name: "state", usage: "output the state of a container", args: "<container-id>", min: 1, max: 1, setup: state},
		{name: "update", usage: "update container resource constraints", args: "<container-id>", min: 1, max: 1, setup: update},
		{name: "features", usage: "show the enabled features", setup: showFeatures},
	}
}

func find(name string) *command {
	for _, c := range allCommands() {
		if c.name == name {
			return &c
		}
	}
	return nil
}

// invoke parses a command's own flags and arguments, and runs it.
func (c *command) invoke(a *app, args []string) error {
	f := newFlags(c.name)
	do := c.setup(f)
	var help bool
	f.BoolVar(&help, "help, h", false, "show help")
	f.hide("help")
	rest, err := f.parse(args, !c.commandLine)
	if err != nil {
		fmt.Fprintf(a.stdout, "Incorrect Usage: %v\n\n", err)
		c.help(a, f)
		return err
	}
	if help {
		c.help(a, f)
		return nil
	}
	if err := c.count(a, len(rest)); err != nil {
		fmt.Fprint(a.stdout, "Incorrect Usage.\n\n")
		c.help(a, f)
		return err
	}
	return do(a, rest)
}

func (c *command) count(a *app, n int) error {
	switch {
	case c.min == c.max && n != c.min:
		return fmt.Errorf("%s: %q requires exactly %d argument(s)", a.args0, c.name, c.min)
	case n < c.min:
		return fmt.Errorf("%s: %q requires a minimum of %d argument(s)", a.args0, c.name, c.min)
	case c.max >= 0 && n > c.max:
		return fmt.Errorf("%s: %q requires a maximum of %d argument(s)", a.args0, c.name, c.max)
	}
	return nil
}

// flags is a flag set in which a name like "bundle, b" stands for two.
type flags struct {
	*flag.FlagSet
	order   []string
	aliases map[string][]string
	hidden  map[string]bool
}

func newFlags(name string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), aliases: map[string][]string{}, hidden: map[string]bool{}}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

// names registers a flag under its name and its short one.
func (f *flags) names(names string, define func(name string)) {
	list := strings.Split(names, ", ")
	for _, name := range list {
		define(name)
	}
	f.order = append(f.order, list[0])
	f.aliases[list[0]] = list[1:]
}

func (f *flags) BoolVar(p *bool, names string, value bool, usage string) {
	f.names(names, func(name string) { f.FlagSet.BoolVar(p, name, value, usage) })
}

func (f *flags) StringVar(p *string, names, value, usage string) {
	f.names(names, func(name string) { f.FlagSet.StringVar(p, name, value, usage) })
}

func (f *flags) IntVar(p *int, names string, value int, usage string) {
	f.names(names, func(name string) { f.FlagSet.IntVar(p, name, value, usage) })
}

// ListVar adds a flag that may be given more than once.
func (f *flags) ListVar(p *[]string, names, usage string) {
	f.names(names, func(name string) {
		f.FlagSet.Func(name, usage, func(s string) error { *p = append(*p, s); return nil })
	})
}

// hide keeps a flag out of the help.
func (f *flags) hide(name string) { f.hidden[name] = true }

func (f *flags) isSet(name string) (set bool) {
	f.Visit(func(v *flag.Flag) { set = set || v.Name == name })
	return set
}

// parse reads flags, also behind arguments if mixed.
func (f *flags) parse(args []string, mixed bool) (rest []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		left := f.Args()
		ended := len(left) < len(args) && args[len(args)-len(left)-1] == "--"
		if len(left) == 0 || !mixed || ended {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// text lists the flags as a help text does.
func (f *flags) text() string {
	var b strings.Builder
	for _, name := range f.order {
		v := f.Lookup(name)
		if v == nil || f.hidden[name] {
			continue
		}
		_, isBool := v.Value.(interface{ IsBoolFlag() bool })
		label := ""
		for i, n := range append([]string{name}, f.aliases[name]...) {
			dashes := "--"
			if len(n) == 1 {
				dashes = "-"
			}
			if i > 0 {
				label += ", "
			}
			label += dashes + n
			if !isBool {
				label += " value"
			}
		}
		usage := v.Usage
		if v.DefValue != "" && !isBool {
			def := v.DefValue
			if _, err := strconv.Atoi(def); err != nil {
				def = strconv.Quote(def)
			}
			usage += " (default: " + def + ")"
		}
		fmt.Fprintf(&b, "   %-26s %s\n", label, usage)
	}
	return b.String()
}

func (c *command) help(a *app, f *flags) {
	fmt.Fprintf(a.stdout, "NAME:\n   runc %s - %s\n\nUSAGE:\n   runc %s", c.name, c.usage, c.name)
	if len(f.order) > 0 {
		fmt.Fprint(a.stdout, " [command options]")
	}
	fmt.Fprintf(a.stdout, " %s\n", c.args)
	if options := f.text(); options != "" {
		fmt.Fprintf(a.stdout, "\nOPTIONS:\n%s", options)
	}
}

func (a *app) help(f *flags) {
	fmt.Fprint(a.stdout, "NAME:\n   runc - Open Container Initiative runtime\n\n"+
		"USAGE:\n   runc [global options] command [command options] [arguments...]\n\n"+
		"VERSION:\n   "+releaseVersion+"\n\nCOMMANDS:\n")
	for _, c := range allCommands() {
		fmt.Fprintf(a.stdout, "   %-11s %s\n", c.name, c.usage)
	}
	fmt.Fprintf(a.stdout, "   %-11s %s\n\nGLOBAL OPTIONS:\n%s", "help, h", "Shows a list of commands or help for one command", f.text())
}

// showHelp is `runc help [command]`.
func (a *app) showHelp(f *flags) error {
	if f.NArg() < 2 {
		a.help(f)
		return nil
	}
	c := find(f.Arg(1))
	if c == nil {
		return errors.New("No help topic for '" + f.Arg(1) + "'")
	}
	return c.invoke(a, []string{"--help"})
}
