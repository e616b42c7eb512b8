// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// parseVariant reads a value in GVariant's text format, in which annotations
// give properties of a systemd unit: true, 5 (an int32), uint64 5, 'text',
// ['a', 'b'], [uint32 1, 2].
func parseVariant(text string) (any, error) {
	text = strings.TrimSpace(text)
	if inner, ok := strings.CutPrefix(text, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if !ok {
			return nil, badVariant(text)
		}
		return parseArray(inner)
	}
	return parseScalar(text)
}

func badVariant(text string) error {
	return fmt.Errorf("%q is no value that is understood: %w", text, errdefs.ErrInvalidArgument)
}

func parseScalar(text string) (any, error) {
	switch {
	case text == "true" || text == "false":
		return text == "true", nil
	case len(text) >= 2 && (text[0] == '\'' || text[0] == '"') && text[len(text)-1] == text[0]:
		inner := text[1 : len(text)-1]
		if strings.ContainsAny(inner, text[:1]+"\\") {
			return nil, badVariant(text)
		}
		return inner, nil
	}
	kind, number, typed := strings.Cut(text, " ")
	if !typed {
		kind, number = "int32", text
		if strings.Contains(text, ".") {
			kind = "double"
		}
	}
	return parseNumber(kind, strings.TrimSpace(number))
}

func parseNumber(kind, text string) (v any, err error) {
	switch kind {
	case "boolean":
		v, err = strconv.ParseBool(text)
	case "byte":
		var n uint64
		n, err = strconv.ParseUint(text, 0, 8)
		v = uint32(n)
	case "int32":
		var n int64
		n, err = strconv.ParseInt(text, 0, 32)
		v = int32(n)
	case "uint32":
		var n uint64
		n, err = strconv.ParseUint(text, 0, 32)
		v = uint32(n)
	case "int64":
		v, err = strconv.ParseInt(text, 0, 64)
	case "uint64":
		v, err = strconv.ParseUint(text, 0, 64)
	case "double":
		v, err = strconv.ParseFloat(text, 64)
	default:
		err = badVariant(kind + " " + text)
	}
	return v, err
}

// parseArray reads elements of one type, that of the first.
func parseArray(text string) (any, error) {
	var words []string
	var numbers []uint64
	kind := ""
	for i, element := range splitArray(text) {
		element = strings.TrimSpace(element)
		if k, _, typed := strings.Cut(element, " "); i == 0 && typed && !strings.HasPrefix(element, "'") {
			kind = k
		} else if i > 0 && kind != "" {
			element = kind + " " + element
		}
		switch v, err := parseScalar(element); v := v.(type) {
		case string:
			words = append(words, v)
		case uint32:
			numbers = append(numbers, uint64(v))
		case uint64:
			numbers = append(numbers, v)
		default:
			if err == nil {
				err = badVariant(element)
			}
			return nil, err
		}
	}
	if len(words) > 0 && len(numbers) > 0 {
		return nil, badVariant(text)
	}
	if len(numbers) == 0 {
		return words, nil
	}
	return typedArray(kind, numbers), nil
}

// typedArray has the numbers in the type that was written before the first.
func typedArray(kind string, numbers []uint64) any {
	switch kind {
	case "byte":
		list := make([]byte, len(numbers))
		for i, n := range numbers {
			list[i] = byte(n)
		}
		return list
	case "uint32":
		list := make([]uint32, len(numbers))
		for i, n := range numbers {
			list[i] = uint32(n)
		}
		return list
	}
	return numbers
}

// splitArray splits at commas outside of quotes.
func splitArray(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	var quote rune
	var parts []string
	start := 0
	for i, r := range text {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '\'' || r == '"':
			quote = r
		case r == ',':
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}
