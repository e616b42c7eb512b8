// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"strings"
	"testing"

	"slipway/test/host"
)

// A program is a client's command, as its user types it.
type program struct {
	t    *testing.T
	name string
	line []string // what goes before the arguments
	env  []string // added to its environment
}

func (p *program) try(args ...string) host.Result {
	p.t.Helper()
	line := append(p.line[:len(p.line):len(p.line)], args...)
	return host.Exec(p.t, p.env, "", line[0], line[1:]...)
}

// do runs a command that must succeed and returns its stdout.
func (p *program) do(args ...string) string {
	p.t.Helper()
	r := p.try(args...)
	if r.Code != 0 {
		p.t.Fatalf("%s %s: exit code %d\n%s%s", p.name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// want runs a command whose stdout must be text.
func (p *program) want(text string, args ...string) {
	p.t.Helper()
	if out := p.do(args...); out != text {
		p.t.Errorf("%s %s printed %q, not %q", p.name, strings.Join(args, " "), out, text)
	}
}
