// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagSet is where a command declares its flags.
type flagSet = *pflag.FlagSet

// An action is what a command does with its arguments.
type action func(s *session, args []string) error

// A command is one row of a table: a group has sub, a command has declare.
type command struct {
	use     string // its name, then its arguments
	aliases []string
	short   string
	line    bool // a command line follows: no flags of ours after the first argument

	// declare adds the flags and returns what runs once they are parsed.
	declare func(flagSet) action
	sub     func() []command
	shared  func(*session, flagSet) // flags of a group, before its command

	names func(*session) ([]string, error) // what the arguments name, for completion
}

// commandLine marks the library's commands of rows with line.
const commandLine = "line"

// errUsage is what a command returns that lacks arguments, and answers with its
// help instead.
var errUsage = errors.New("arguments are missing")

// tree is the table as the command-line library wants it. What a group has in
// it and the flags of a command come when they are asked for: the rest of some
// hundred commands would take as long as a call to the daemon.
type tree struct {
	session *session
	groups  map[*cobra.Command]func() // what is still to be filled
	declare map[*cobra.Command]func() // what is still to be declared
}

func newTree(s *session) tree {
	return tree{session: s, groups: make(map[*cobra.Command]func()), declare: make(map[*cobra.Command]func())}
}

func (t tree) add(parent *cobra.Command, rows []command) {
	for _, row := range rows {
		c := &cobra.Command{Use: row.use, Aliases: row.aliases, Short: row.short, TraverseChildren: true}
		c.DisableFlagsInUseLine = true
		parent.AddCommand(c)
		if row.shared != nil {
			row.shared(t.session, c.Flags())
		}
		if row.sub != nil {
			unknown(c)
			t.groups[c] = func() { t.add(c, row.sub()) }
			continue
		}
		t.declare[c] = func() {
			if row.line {
				c.Flags().SetInterspersed(false)
				c.Annotations = map[string]string{commandLine: ""}
			}
			act := row.declare(c.Flags())
			c.RunE = func(c *cobra.Command, args []string) error {
				if err := act(t.session, args); err != errUsage {
					return err
				}
				return c.Help()
			}
			if row.names != nil {
				c.ValidArgsFunction = t.session.complete(row.names)
			}
		}
		c.RunE = func(*cobra.Command, []string) error { return nil } // makes it count as a command until then
	}
}

// fill puts the commands of a group below it.
func (t tree) fill(c *cobra.Command) {
	if fill := t.groups[c]; fill != nil {
		delete(t.groups, c)
		fill()
	}
}

func (t tree) fillAll() {
	for len(t.groups) > 0 { // groups have groups
		for c := range t.groups {
			t.fill(c)
		}
	}
}

// declareFor declares the command that args name, or all when that is help,
// completion, or nothing we know.
func (t tree) declareFor(root *cobra.Command, args []string) {
	if c := t.find(root, args); c != nil && t.declare[c] != nil {
		t.declare[c]()
		return
	}
	t.fillAll()
	for _, declare := range t.declare {
		declare()
	}
}

// find goes down the tree by the arguments that are names of commands.
func (t tree) find(c *cobra.Command, args []string) *cobra.Command {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if strings.HasPrefix(arg, "-") {
			if takesValue(c.Flags(), arg) && len(args) > 0 {
				args = args[1:]
			}
			continue
		}
		next := child(c, arg)
		if next == nil {
			return nil
		}
		c = next
		if t.fill(c); !c.HasSubCommands() {
			return c
		}
	}
	return nil
}

func child(c *cobra.Command, name string) *cobra.Command {
	for _, sub := range c.Commands() {
		if sub.Name() == name || sub.HasAlias(name) {
			return sub
		}
	}
	return nil
}

// takesValue tells whether the argument after the flag arg is its value.
func takesValue(flags flagSet, arg string) bool {
	arg = dashes(flags, arg)
	if strings.Contains(arg, "=") {
		return false
	}
	var f *pflag.Flag
	if name, long := strings.CutPrefix(arg, "--"); long {
		f = flags.Lookup(name)
	} else if len(arg) == 2 {
		f = flags.ShorthandLookup(arg[1:])
	}
	return f != nil && f.NoOptDefVal == ""
}

// spell writes the flags of a command line as the library wants them.
func (t tree) spell(c *cobra.Command, args []string) []string {
	args = slices.Clone(args)
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		if !strings.HasPrefix(args[i], "-") {
			if _, line := c.Annotations[commandLine]; line {
				break
			}
			if c.HasSubCommands() {
				if c = child(c, args[i]); c == nil {
					break
				}
			}
			continue
		}
		c.InitDefaultHelpFlag()
		c.InitDefaultVersionFlag()
		args[i] = dashes(c.Flags(), args[i])
		if takesValue(c.Flags(), args[i]) {
			i++
		}
	}
	return args
}

// dashes gives a long name two dashes and a short one one. Users of
// containerd's client may write either with either.
func dashes(flags flagSet, arg string) string {
	bare := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
	name, _, _ := strings.Cut(bare, "=")
	switch {
	case name == "":
	case flags.Lookup(name) != nil:
		return "--" + bare
	case len(name) == 1 && flags.ShorthandLookup(name) != nil:
		return "-" + bare
	}
	return arg
}

// wrongFlag says what is wrong with a flag, in the words of package flag; empty
// if err is another error.
func wrongFlag(err error) string {
	var unknown *pflag.NotExistError
	var empty *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		return "flag provided but not defined: -" + cmp.Or(unknown.GetSpecifiedShortnames(), unknown.GetSpecifiedName())
	case errors.As(err, &empty):
		return "flag needs an argument: -" + empty.GetSpecifiedName()
	case errors.As(err, &invalid) && invalid.GetFlag().Value.Type() == "bool":
		return fmt.Sprintf("invalid boolean value %q for -%s: parse error", invalid.GetValue(), invalid.GetFlag().Name)
	case errors.As(err, &invalid):
		return fmt.Sprintf("invalid value %q for flag -%s: parse error", invalid.GetValue(), invalid.GetFlag().Name)
	}
	return ""
}

// unknown makes a group answer to what it does not know, and print its help
// when it is asked for nothing.
func unknown(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		fmt.Fprintf(c.ErrOrStderr(), "No help topic for '%s'\n", args[0])
		return exitStatus(3)
	}
}

// complete suggests names that are not there yet.
func (s *session) complete(names func(*session) ([]string, error)) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		all, err := names(s)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		all = slices.DeleteFunc(all, func(n string) bool { return slices.Contains(args, n) })
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// arg returns the argument at i, empty if there are fewer.
func arg(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}
