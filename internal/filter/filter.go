// SPDX-License-Identifier: Apache-2.0

// Package filter decides which objects a list request is about.
//
// A filter is a comma-separated conjunction of selectors:
//
//	filter   := selector { "," selector }
//	selector := path [ op value ]
//	path     := field { "." field }
//	field    := name | quoted
//	op       := "==" | "!=" | "~="
//	value    := bare word | quoted; after ~= also /…/ and |…|
//
// A selector without an operator asks whether the field is present. Several
// filters are alternatives.
package filter

import (
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
)

// A Filter reports whether the object behind fields matches.
type Filter func(fields Fields) bool

// Fields gives the value of the field at path and whether the object has it.
// A field that exists but is empty counts as absent.
type Fields func(path []string) (value string, present bool)

// Parse compiles alternatives. None, or an empty one, match everything. A
// filter that cannot be parsed is errdefs.ErrInvalidArgument.
func Parse(filters ...string) (Filter, error) {
	var any []conjunction
	for _, src := range filters {
		c, err := parse(src)
		if err != nil {
			return nil, fmt.Errorf("filter %q: %w: %w", src, err, errdefs.ErrInvalidArgument)
		}
		any = append(any, c)
	}
	if len(any) == 0 {
		return func(Fields) bool { return true }, nil
	}
	return func(f Fields) bool {
		for _, c := range any {
			if c.match(f) {
				return true
			}
		}
		return false
	}, nil
}

type conjunction []selector

func (c conjunction) match(f Fields) bool {
	for _, s := range c {
		if !s.match(f) {
			return false
		}
	}
	return true
}

type selector struct {
	path  []string
	op    string // "" asks for presence
	value string
	re    *regexp.Regexp // for ~=
}

func (s selector) match(f Fields) bool {
	value, present := f(s.path)
	switch s.op {
	case "":
		return present
	case "==":
		return present && value == s.value
	case "!=":
		return value != s.value
	}
	return present && s.re.MatchString(value)
}

// Labels gives the field behind a path that starts at a map of strings: the
// rest of the path is the key.
func Labels(labels map[string]string, rest []string) (string, bool) {
	key := ""
	for i, p := range rest {
		if i > 0 {
			key += "."
		}
		key += p
	}
	v, ok := labels[key]
	return v, ok
}
