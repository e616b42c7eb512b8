// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding"
	"fmt"
	"iter"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// A Note is something that a configuration file says in vain, or in an old
// form. Only what is in vain fails a check.
type Note struct {
	place
	Text string
	Old  bool // an old form, which works
}

// String gives the form of compilers' messages.
func (n Note) String() string {
	if n.line == 0 {
		return fmt.Sprintf("%s: %s", n.file, n.Text)
	}
	return fmt.Sprintf("%s:%d: %s", n.file, n.line, n.Text)
}

func migrated(d *document) Note {
	p := place{file: d.file, line: d.places["version"].line}
	return Note{place: p, Old: true, Text: fmt.Sprintf("configuration of version %d, see containerd config migrate", d.version)}
}

func keysOf[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

// decoding fills a Config with the values of a document.
type decoding struct {
	doc   *document
	notes []Note
}

// decode lays the document over the defaults.
func (d *document) decode() (*Config, []Note, error) {
	c := DefaultConfig()
	x := &decoding{doc: d}
	values := maps.Clone(d.values)
	plugins, isTable := values["plugins"].(map[string]any)
	if values["plugins"] != nil && !isTable {
		return nil, nil, x.wrong([]string{"plugins"}, "a table", values["plugins"])
	}
	delete(values, "plugins")
	if err := x.table(reflect.ValueOf(c).Elem(), values, nil); err != nil {
		return nil, nil, err
	}
	for _, uri := range slices.Sorted(keysOf(plugins)) {
		if err := x.plugin(c, uri, plugins[uri]); err != nil {
			return nil, nil, err
		}
	}
	x.names("disabled_plugins", c, c.DisabledPlugins)
	x.names("required_plugins", c, c.RequiredPlugins)
	slices.SortStableFunc(x.notes, func(a, b Note) int {
		if n := strings.Compare(a.file, b.file); n != 0 {
			return n
		}
		return a.line - b.line
	})
	return c, x.notes, c.check()
}

func (x *decoding) plugin(c *Config, uri string, v any) error {
	path := []string{"plugins", uri}
	section, ok := v.(map[string]any)
	if !ok {
		return x.wrong(path, "a table", v)
	}
	opts, known := c.Plugins[uri]
	if known && slices.Contains(c.DisabledPlugins, uri) {
		return nil
	}
	if known {
		return x.table(reflect.ValueOf(opts).Elem(), section, path)
	}
	c.Plugins[uri] = section
	if exists(uri) {
		if len(section) > 0 {
			x.note(path, "%s has no options", uri)
		}
		return nil
	}
	if isAbsent(uri) {
		x.note(path, "no effect: this build has no %s", uri)
		return nil
	}
	x.note(path, "unknown component %s%s", uri, nearest(uri, uris(), uri))
	return nil
}

func uris() (all []string) {
	for _, c := range components {
		all = append(all, c.uri())
	}
	return all
}

func exists(uri string) bool { return slices.Contains(uris(), uri) }

// names notes those of a list that nothing has. To disable what is absent is
// no mistake.
func (x *decoding) names(key string, c *Config, list []string) {
	for _, uri := range list {
		_, proxy := c.ProxyPlugins[uri[strings.LastIndex(uri, ".")+1:]]
		if !exists(uri) && !proxy && !isAbsent(uri) {
			x.note([]string{key}, "unknown component %s%s", uri, nearest(uri, uris(), uri))
		}
	}
}

func (x *decoding) note(path []string, format string, args ...any) {
	x.notes = append(x.notes, Note{place: x.doc.place(path), Text: fmt.Sprintf(format, args...)})
}

// wrong is the error of a value of another type.
func (x *decoding) wrong(path []string, want string, got any) error {
	p := x.doc.place(path)
	return fmt.Errorf("%s:%d: %s must be %s, not %s: %w", p.file, p.line, p.key, want, tomlType(got), errdefs.ErrInvalidArgument)
}

func tomlType(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	}
	return fmt.Sprintf("%T", v)
}

// table fills a struct. Keys without a field are noted, and so are values of
// fields that have no effect.
func (x *decoding) table(dst reflect.Value, values map[string]any, path []string) error {
	fields := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(dst.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		fields[name] = f
	}
	for _, key := range slices.Sorted(keysOf(values)) {
		at := append(slices.Clone(path), key)
		f, ok := fields[key]
		if !ok {
			p := x.doc.place(at)
			x.note(at, "unknown key %s%s", p.key, nearest(key, slices.Collect(keysOf(fields)), key))
			continue
		}
		v := dst.FieldByIndex(f.Index)
		before := fmt.Sprint(v.Interface())
		if err := x.value(v, values[key], at); err != nil {
			return err
		}
		if reason := f.Tag.Get("dead"); reason != "" && fmt.Sprint(v.Interface()) != before {
			x.note(at, "no effect: %s: %s", x.doc.place(at).key, reason)
		}
	}
	return nil
}

// value fills one field.
func (x *decoding) value(dst reflect.Value, v any, path []string) error {
	if u, ok := dst.Addr().Interface().(encoding.TextUnmarshaler); ok {
		s, ok := v.(string)
		if !ok || u.UnmarshalText([]byte(s)) != nil {
			return x.wrong(path, "a duration such as '2s'", v)
		}
		return nil
	}
	switch dst.Kind() {
	case reflect.Struct:
		t, ok := v.(map[string]any)
		if !ok {
			return x.wrong(path, "a table", v)
		}
		return x.table(dst, t, path)
	case reflect.Map:
		return x.mapping(dst, v, path)
	case reflect.Slice:
		return x.list(dst, v, path)
	}
	return x.scalar(dst, v, path)
}

func (x *decoding) mapping(dst reflect.Value, v any, path []string) error {
	t, ok := v.(map[string]any)
	if !ok {
		return x.wrong(path, "a table", v)
	}
	if dst.IsNil() {
		dst.Set(reflect.MakeMap(dst.Type()))
	}
	for _, k := range slices.Sorted(keysOf(t)) {
		e := reflect.New(dst.Type().Elem()).Elem()
		if err := x.value(e, t[k], append(slices.Clone(path), k)); err != nil {
			return err
		}
		dst.SetMapIndex(reflect.ValueOf(k), e)
	}
	return nil
}

func (x *decoding) list(dst reflect.Value, v any, path []string) error {
	items, ok := v.([]any)
	if !ok {
		return x.wrong(path, "an array", v)
	}
	list := reflect.MakeSlice(dst.Type(), len(items), len(items))
	for i, item := range items {
		if err := x.value(list.Index(i), item, path); err != nil {
			return err
		}
	}
	dst.Set(list)
	return nil
}

func (x *decoding) scalar(dst reflect.Value, v any, path []string) error {
	switch dst.Kind() {
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			return x.wrong(path, "a string", v)
		}
		dst.SetString(s)
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			return x.wrong(path, "a boolean", v)
		}
		dst.SetBool(b)
	case reflect.Int:
		n, ok := v.(int64)
		if !ok || n < math.MinInt32 || n > math.MaxInt32 {
			return x.wrong(path, "an integer of 32 bits", v)
		}
		dst.SetInt(n)
	case reflect.Float64:
		f, ok := v.(float64)
		if n, isInt := v.(int64); isInt {
			f, ok = float64(n), true
		}
		if !ok {
			return x.wrong(path, "a number", v)
		}
		dst.SetFloat(f)
	default:
		panic(fmt.Sprintf("option %v of kind %v", path, dst.Kind()))
	}
	return nil
}

// nearest suggests the key that is spelled most like key, if any is close.
func nearest(key string, all []string, not string) string {
	best, least := "", min(max(2, len(key)/3), 4)+1
	slices.Sort(all)
	for _, k := range all {
		if n := distance(key, k); k != not && k != "" && n < least {
			best, least = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %s?", best)
}

// distance counts the insertions, removals and changes that make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
