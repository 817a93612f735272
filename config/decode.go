package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// decoder puts the nodes of a file into the fields of a Config. It goes on
// after a mistake, so that all are reported.
type decoder struct {
	*report
	env func(string) (string, bool)
}

// field is what is known of the value that a node is for.
type field struct {
	path string
	tag  reflect.StructTag
}

// startsFrom is implemented by what has defaults of its own wherever it stands in a list.
type startsFrom interface{ setDefaults() }

func (d *decoder) decode(n ast.Node, v reflect.Value, f field) {
	if what := refused(n); what != "" {
		d.at(placeOf(n), f.path, "%s are not used here: write the value out", what)
		return
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.scalar(n, v, f)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if _, null := n.(*ast.NullNode); null {
			return
		}
		v.Set(newValue(v.Type().Elem()).Addr())
		d.decode(n, v.Elem(), f)
	case reflect.Struct:
		d.mapping(n, v, f)
	case reflect.Slice:
		d.list(n, v, f)
	default:
		d.scalar(n, v, f)
	}
}

// refused names what YAML has and a configuration does without.
func refused(n ast.Node) string {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		return "anchors and aliases (& and *; quote a value that begins with one)"
	case *ast.TagNode:
		return "tags (!; quote a value that begins with one)"
	}
	return ""
}

func newValue(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if s, ok := v.Interface().(startsFrom); ok {
		s.setDefaults()
	}
	return v.Elem()
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, f field) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.NullNode: // nothing below the key: the defaults
		return
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		d.at(placeOf(n), f.path, "needs keys of its own: %s", strings.Join(keysOf(v.Type()), ", "))
		return
	}
	seen := map[string]place{}
	for _, kv := range values {
		at := placeOf(kv.Key)
		name, ok := keyName(kv.Key)
		if !ok {
			d.at(at, f.path, "holds a key that is no plain word: known are %s", strings.Join(keysOf(v.Type()), ", "))
			continue
		}
		path := join(f.path, name)
		if first, ok := seen[name]; ok {
			d.at(at, path, "is given twice, first in line %d", first.line)
			continue
		}
		seen[name] = at
		child, tag, ok := fieldByKey(v, name)
		if !ok {
			d.at(at, path, "unknown key; %s", suggest(name, v.Type()))
			continue
		}
		d.places[path] = at
		d.decode(kv.Value, child, field{path, tag})
	}
}

func keyName(n ast.MapKeyNode) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func (d *decoder) list(n ast.Node, v reflect.Value, f field) {
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.SequenceNode:
		items := reflect.Zero(v.Type())
		for i, item := range n.Values {
			path := fmt.Sprintf("%s[%d]", f.path, i)
			d.places[path] = placeOf(item)
			elem := newValue(v.Type().Elem())
			if _, null := item.(*ast.NullNode); null {
				d.at(placeOf(n), path, "is empty: give it a value or take it out")
				continue
			}
			d.decode(item, elem, field{path, ""})
			items = reflect.Append(items, elem)
		}
		v.Set(items)
	default:
		d.at(placeOf(n), f.path, "is not a list: write its values in [ ], or one a line behind dashes")
	}
}

// scalar decodes a single value from its text: whether it was quoted does not matter.
func (d *decoder) scalar(n ast.Node, v reflect.Value, f field) {
	raw, ok := text(n)
	if _, null := n.(*ast.NullNode); null {
		d.at(d.places[f.path], f.path, `has no value: write one, "" for an empty one, or leave the key out`)
		return
	}
	if !ok {
		d.at(placeOf(n), f.path, "needs a single value, not a list or keys")
		return
	}
	d.places[f.path] = placeOf(n)
	value, err := expand(raw, d.env)
	if err != nil {
		d.at(placeOf(n), f.path, "%v", err)
		return
	}
	if value != raw {
		d.raw[f.path] = raw
	}
	if err := set(v, value, f.tag); err != nil {
		switch v.Interface().(type) {
		case Secret, Proxy:
			d.at(placeOf(n), f.path, "%v", err)
		default:
			d.at(placeOf(n), f.path, "%s %v", d.quote(f.path, raw), err)
		}
	}
}

func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// set parses value into v; its error continues a sentence that begins with the value.
func set(v reflect.Value, value string, tag reflect.StructTag) error {
	_, secret := v.Interface().(Secret)
	switch {
	case secret:
	case !utf8.ValidString(value):
		return errors.New("is not UTF-8 text")
	case strings.ContainsFunc(value, unicode.IsControl):
		return errors.New("holds a control character, such as the end of a line")
	}
	switch p := v.Addr().Interface().(type) {
	case *netip.Prefix:
		parsed, err := parsePrefix(value)
		*p = parsed
		return err
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(value))
	}
	switch v.Kind() {
	case reflect.Bool:
		if value != "true" && value != "false" {
			return fmt.Errorf("is not true or false")
		}
		v.SetBool(value == "true")
	case reflect.Int:
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("is not a whole number")
		}
		v.SetInt(int64(n))
	case reflect.String:
		if err := oneOf(value, tag); err != nil {
			return err
		}
		v.SetString(value)
	default:
		return fmt.Errorf("cannot be read as %s", v.Type())
	}
	return nil
}

func oneOf(value string, tag reflect.StructTag) error {
	known := strings.Fields(tag.Get("oneof"))
	for _, k := range known {
		if k == value {
			return nil
		}
	}
	for _, k := range strings.Fields(tag.Get("later")) {
		if k == value {
			return fmt.Errorf("is not supported by this version: write one of %s", strings.Join(known, ", "))
		}
	}
	if len(known) == 0 {
		return nil
	}
	return fmt.Errorf("is not one of %s", strings.Join(known, ", "))
}
