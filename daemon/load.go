// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A document is what files say: their values, and where each key stands, by
// its path joined by pathSep.
type document struct {
	file    string
	version int // before migration
	values  map[string]any
	places  map[string]place
}

// A place is a line of a file, and the name that the key has there.
type place struct {
	file string
	line int
	key  string
}

const pathSep = "\x00"

// LoadConfig reads the file at path, what it imports, and the defaults. A file
// that does not exist is like an empty one. Notes are what the files say in
// vain.
func LoadConfig(path string) (_ *Config, notes []Note, _ error) {
	main, err := readDocument(path)
	if errors.Is(err, fs.ErrNotExist) {
		main, err = parseDocument(path, fmt.Appendf(nil, "version = %d", ConfigVersion))
	}
	if err != nil {
		return nil, nil, err
	}
	if err := main.merge(&notes); err != nil {
		return nil, nil, err
	}
	c, more, err := main.decode()
	return c, append(notes, more...), err
}

func readDocument(path string) (*document, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseDocument(path, data)
}

// parseDocument reads one file and brings it into the newest form.
func parseDocument(file string, data []byte) (*document, error) {
	d := &document{file: file, values: map[string]any{}, places: map[string]place{}}
	if err := toml.Unmarshal(data, &d.values); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			row, _ := at.Position()
			return nil, fmt.Errorf("%s:%d: %w: %w", file, row, err, errdefs.ErrInvalidArgument)
		}
		return nil, fmt.Errorf("%s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	if err := d.locate(data); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	version, ok := d.values["version"].(int64)
	if _, set := d.values["version"]; set && !ok || version < 0 || version > ConfigVersion {
		return nil, fmt.Errorf("%s:%d: expected containerd config version equal to or less than `%d`, got `%v`: %w",
			file, d.places["version"].line, ConfigVersion, d.values["version"], errdefs.ErrInvalidArgument)
	}
	d.version = int(version)
	d.migrate()
	return d, nil
}

// locate finds the line of each key.
func (d *document) locate(data []byte) error {
	var p unstable.Parser
	p.Reset(data)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = d.locateKey(&p, nil, e)
		case unstable.KeyValue:
			d.locateValue(&p, table, e)
		}
	}
	return p.Error()
}

func (d *document) locateValue(p *unstable.Parser, table []string, kv *unstable.Node) {
	path := d.locateKey(p, table, kv)
	value := kv.Value()
	if value.Kind != unstable.InlineTable {
		return
	}
	for it := value.Children(); it.Next(); {
		d.locateValue(p, path, it.Node())
	}
}

// locateKey records every part of a dotted key and returns its path.
func (d *document) locateKey(p *unstable.Parser, table []string, n *unstable.Node) []string {
	path := slices.Clone(table)
	for it := n.Key(); it.Next(); {
		key := it.Node()
		path = append(path, string(key.Data))
		at := strings.Join(path, pathSep)
		if _, ok := d.places[at]; !ok {
			d.places[at] = place{d.file, p.Shape(key.Raw).Start.Line, printKey(path)}
		}
	}
	return path
}

// printKey is a path as a file spells it.
func printKey(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		if parts[i] = p; strings.ContainsAny(p, ". /") {
			parts[i] = "'" + p + "'"
		}
	}
	return strings.Join(parts, ".")
}

// place finds the line of a key, or of the nearest table around it.
func (d *document) place(path []string) place {
	for n := len(path); n > 0; n-- {
		if p, ok := d.places[strings.Join(path[:n], pathSep)]; ok {
			if n < len(path) {
				p.key += "." + printKey(path[n:])
			}
			return p
		}
	}
	return place{file: d.file, key: printKey(path)}
}

// imports is one pattern, and the file that has it.
type imports struct{ from, pattern string }

func (d *document) imports() (all []imports) {
	list, _ := d.values["imports"].([]any)
	for _, p := range list {
		if s, ok := p.(string); ok { // decode reports the others
			all = append(all, imports{d.file, s})
		}
	}
	return all
}

// merge adds what d imports, and what those files import, in the order in
// which they are named.
func (d *document) merge(notes *[]Note) error {
	d.values["imports"] = union([]any{DefaultConfig().Imports[0]}, d.values["imports"])
	queue, seen := d.imports(), map[string]bool{absolute(d.file): true}
	if d.version < ConfigVersion {
		*notes = append(*notes, migrated(d))
	}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		files, err := expand(next.from, next.pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			if seen[absolute(file)] {
				continue
			}
			seen[absolute(file)] = true
			drop, err := d.mergeFile(file, notes)
			if err != nil {
				return fmt.Errorf("import %s of %s: %w", next.pattern, next.from, err)
			}
			if drop != nil {
				queue = append(queue, drop.imports()...)
			}
		}
	}
	return nil
}

// mergeFile adds one file. It returns nil if there is none.
func (d *document) mergeFile(file string, notes *[]Note) (*document, error) {
	drop, err := readDocument(file)
	if errors.Is(err, fs.ErrNotExist) {
		*notes = append(*notes, Note{place: d.place([]string{"imports"}), Text: fmt.Sprintf("import %s: no such file", file)})
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if drop.version > max(d.version, 1) {
		return nil, fmt.Errorf("%s: drop-in config version %d higher than root config version %d: %w", file, drop.version, d.version, errdefs.ErrInvalidArgument)
	}
	if drop.version < ConfigVersion {
		*notes = append(*notes, migrated(drop))
	}
	d.add(drop)
	return drop, nil
}

// absolute is path where it can be told, and where there is one.
func absolute(path string) string {
	if p, err := filepath.Abs(path); err == nil && path != "" {
		return p
	}
	return path
}

// expand gives the files of a pattern that is relative to the file it stands
// in.
func expand(from, pattern string) ([]string, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(from), pattern)
	}
	if !strings.Contains(pattern, "*") {
		return []string{filepath.Clean(pattern)}, nil
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("import %s of %s: %w", pattern, from, err)
	}
	return files, nil
}

// add lays a later file over d, by upstream's rules: a zero value at the top
// level and in the tables debug and cgroup does not override, lists there grow
// without duplicates; the sections of plugins are merged key by key, where
// every value overrides; entries of other maps are replaced.
func (d *document) add(drop *document) {
	for key, v := range drop.values {
		old, isTable := d.values[key].(map[string]any)
		table, ok := v.(map[string]any)
		switch {
		case key == "version":
		case ok && !isTable:
			d.values[key] = table
		case key == "plugins" && ok:
			deepMerge(old, table)
		case (key == "debug" || key == "cgroup") && ok:
			for k, v := range table {
				overrideScalar(old, k, v)
			}
		case ok:
			for k, v := range table {
				old[k] = v
			}
		default:
			overrideScalar(d.values, key, v)
		}
	}
	for path, p := range drop.places {
		d.places[path] = p
	}
}

func deepMerge(dst, src map[string]any) {
	for k, v := range src {
		old, a := dst[k].(map[string]any)
		table, b := v.(map[string]any)
		if a && b {
			deepMerge(old, table)
			continue
		}
		dst[k] = v
	}
}

func overrideScalar(dst map[string]any, key string, v any) {
	if _, ok := v.([]any); ok {
		dst[key] = union(dst[key], v)
		return
	}
	if v != "" && v != int64(0) && v != false {
		dst[key] = v
	}
}

// union is the first list and what only the second has.
func union(a, b any) []any {
	all, _ := a.([]any)
	more, _ := b.([]any)
	all = slices.Clone(all)
	for _, v := range more {
		if !slices.ContainsFunc(all, func(x any) bool { return fmt.Sprint(x) == fmt.Sprint(v) }) {
			all = append(all, v)
		}
	}
	return all
}
