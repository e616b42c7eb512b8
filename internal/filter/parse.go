// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func parse(src string) (conjunction, error) {
	p := &parser{src: src}
	p.blanks()
	if p.end() {
		return nil, nil
	}
	var c conjunction
	for {
		s, err := p.selector()
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", p.pos, err)
		}
		c = append(c, s)
		p.blanks()
		if p.end() {
			return c, nil
		}
		if !p.skip(",") {
			return nil, fmt.Errorf("at byte %d: a comma is expected, not %q", p.pos, p.rest())
		}
		p.blanks()
	}
}

type parser struct {
	src string
	pos int
}

func (p *parser) rest() string { return p.src[p.pos:] }
func (p *parser) end() bool    { return p.pos == len(p.src) }

func (p *parser) skip(token string) bool {
	if !strings.HasPrefix(p.rest(), token) {
		return false
	}
	p.pos += len(token)
	return true
}

func (p *parser) blanks() {
	p.pos = len(p.src) - len(strings.TrimLeftFunc(p.rest(), unicode.IsSpace))
}

func (p *parser) selector() (s selector, err error) {
	if s.path, err = p.path(); err != nil {
		return s, err
	}
	p.blanks()
	for _, op := range []string{"==", "!=", "~="} {
		if p.skip(op) {
			s.op = op
		}
	}
	if s.op == "" {
		return s, nil
	}
	p.blanks()
	if s.value, err = p.value(s.op == "~="); err != nil {
		return s, err
	}
	if s.op == "~=" {
		s.re, err = regexp.Compile(s.value)
	}
	return s, err
}

func (p *parser) path() ([]string, error) {
	var path []string
	for {
		f, err := p.field()
		if err != nil {
			return nil, err
		}
		if path = append(path, f); !p.skip(".") {
			return path, nil
		}
	}
}

func (p *parser) field() (string, error) {
	if !p.end() && p.rest()[0] == '"' {
		return p.quoted()
	}
	if w := p.word(isFieldRune); w != "" {
		return w, nil
	}
	return "", errors.New("a field name is expected")
}

func (p *parser) value(pattern bool) (string, error) {
	if p.end() {
		return "", errors.New("a value is expected")
	}
	switch c := p.rest()[0]; {
	case c == '"':
		return p.quoted()
	case pattern && (c == '/' || c == '|'):
		return p.delimited(c)
	}
	if w := p.word(isValueRune); w != "" {
		return w, nil
	}
	return "", errors.New("a value is expected")
}

func (p *parser) word(ok func(rune) bool) string {
	rest := p.rest()
	n := strings.IndexFunc(rest, func(r rune) bool { return !ok(r) })
	if n < 0 {
		n = len(rest)
	}
	p.pos += n
	return rest[:n]
}

// quoted reads a Go string literal in double quotes.
func (p *parser) quoted() (string, error) {
	lit, err := strconv.QuotedPrefix(p.rest())
	if err != nil {
		return "", errors.New("a quoted text has no end or a bad escape")
	}
	p.pos += len(lit)
	return strconv.Unquote(lit)
}

// delimited reads a regular expression between two delimiters, which a
// backslash makes ordinary inside.
func (p *parser) delimited(delim byte) (string, error) {
	var b strings.Builder
	rest := p.rest()
	for i := 1; i < len(rest); i++ {
		switch {
		case rest[i] == delim:
			p.pos += i + 1
			return b.String(), nil
		case rest[i] == '\\' && i+1 < len(rest) && rest[i+1] == delim:
			i++
		}
		b.WriteByte(rest[i])
	}
	return "", fmt.Errorf("a regular expression has no closing %c", delim)
}

func isFieldRune(r rune) bool {
	return r == '_' || r == '-' && r < utf8.RuneSelf || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// isValueRune is true for what may stand in a bare value.
func isValueRune(r rune) bool {
	return r != ',' && r != '"' && !unicode.IsSpace(r) && unicode.IsPrint(r)
}
