package config

import (
	_ "embed"
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
)

//go:embed example.yaml
var example []byte

// Example returns a commented file with every key; as it stands it says what
// the defaults say.
func Example() []byte { return append([]byte(nil), example...) }

// Show returns the whole configuration as YAML, with every default, the built-in
// upstreams and placeholders for secrets. But for these, Parse reads it back as
// the same configuration.
func (c *Config) Show() ([]byte, error) {
	out, err := yaml.MarshalWithOptions(shown(reflect.ValueOf(c).Elem()), yaml.Indent(2), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return out, nil
}

// shown turns a value into what the YAML encoder prints as the file has it.
func shown(v reflect.Value) any {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok && v.Kind() != reflect.Pointer {
		text, _ := m.MarshalText() // ours do not fail
		if string(text) == "0" {
			return 0
		}
		return escape(string(text))
	}
	switch v.Kind() {
	case reflect.Pointer:
		return shown(v.Elem())
	case reflect.Struct:
		section := yaml.MapSlice{}
		for f := range fields(v.Type()) {
			child := v.FieldByIndex(f.Index)
			if child.Kind() == reflect.Pointer && child.IsNil() {
				continue
			}
			section = append(section, yaml.MapItem{Key: f.Tag.Get("yaml"), Value: shown(child)})
		}
		return section
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = shown(v.Index(i))
		}
		return list
	case reflect.String:
		return escape(v.String())
	}
	return v.Interface()
}

// escape keeps dollar signs from being read as variables.
func escape(s string) string { return strings.ReplaceAll(s, "$", "$$") }

// Restart returns the keys in which c differs from old and which a reload does
// not apply, in the order of the manual. Both are resolved, or neither.
func (c *Config) Restart(old *Config) []string {
	return changed(reflect.ValueOf(c).Elem(), reflect.ValueOf(old).Elem(), "")
}

func changed(a, b reflect.Value, prefix string) []string {
	var keys []string
	for f := range fields(a.Type()) {
		key, av, bv := join(prefix, f.Tag.Get("yaml")), a.FieldByIndex(f.Index), b.FieldByIndex(f.Index)
		switch {
		case f.Tag.Get("restart") != "":
			if !reflect.DeepEqual(shown(av), shown(bv)) {
				keys = append(keys, key)
			}
		case isSection(f.Type):
			keys = append(keys, changed(av, bv, key)...)
		}
	}
	return keys
}
