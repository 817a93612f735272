package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Keys returns every key of the schema in the order of the manual, lists as
// []: "cache.size", "upstreams[].endpoints[].url".
func Keys() []string {
	var keys []string
	walkSchema(reflect.TypeFor[Config](), "", func(key string, _ reflect.StructField) { keys = append(keys, key) })
	return keys
}

// RestartKeys returns the keys that a reload does not apply, among those of Keys.
func RestartKeys() []string {
	var keys []string
	walkSchema(reflect.TypeFor[Config](), "", func(key string, f reflect.StructField) {
		if f.Tag.Get("restart") != "" {
			keys = append(keys, key)
		}
	})
	return keys
}

// walkSchema visits every key of t, what holds keys before what it holds.
func walkSchema(t reflect.Type, prefix string, visit func(key string, f reflect.StructField)) {
	for f := range fields(t) {
		key := join(prefix, f.Tag.Get("yaml"))
		visit(key, f)
		ft := f.Type
		if ft.Kind() == reflect.Slice {
			ft, key = ft.Elem(), key+"[]"
		}
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if isSection(ft) {
			walkSchema(ft, key, visit)
		}
	}
}

// fields yields the fields of a section that are keys in the file.
func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// isSection reports whether t holds keys, rather than being a value.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

func fieldByKey(v reflect.Value, key string) (reflect.Value, reflect.StructTag, bool) {
	for f := range fields(v.Type()) {
		if f.Tag.Get("yaml") == key {
			return v.FieldByIndex(f.Index), f.Tag, true
		}
	}
	return reflect.Value{}, "", false
}

// keysOf returns the keys of a section in the order of the alphabet.
func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range fields(t) {
		keys = append(keys, f.Tag.Get("yaml"))
	}
	slices.Sort(keys)
	return keys
}

// suggest says what an unknown key of section t may have been meant to be.
func suggest(key string, t reflect.Type) string {
	best, distance := "", 1+max(1, len(key)/3)
	for _, k := range keysOf(t) {
		if d := editDistance(strings.ToLower(key), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	for _, k := range Keys() {
		if strings.EqualFold(k[strings.LastIndexByte(k, '.')+1:], key) {
			return fmt.Sprintf("did you mean %s, in another place? Known here: %s", k, strings.Join(keysOf(t), ", "))
		}
	}
	return "known here: " + strings.Join(keysOf(t), ", ")
}

// editDistance counts the characters to insert, delete, replace or swap with
// the next to get from a to b, each once (optimal string alignment).
func editDistance(a, b string) int {
	const most = 64
	if len(a) > most || len(b) > most {
		return most
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
