package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Error is one mistake in a file.
type Error struct {
	File   string
	Line   int    // from 1; 0 if the mistake has no place of its own
	Column int    // from 1, in characters
	Key    string // path of the key, such as upstreams[0].endpoints[1].url; "" for the file itself
	Msg    string // what is wrong, and what would be right
}

// Error returns file:line:column: key: message.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// place is where a key or value stands in the file.
type place struct{ line, column int }

// report gathers the mistakes of one file, and where its keys stand.
type report struct {
	file   string
	places map[string]place
	raw    map[string]string // values as the file has them, where variables were put in
	errs   []*Error
}

func newReport(file string) *report {
	return &report{file: file, places: map[string]place{}, raw: map[string]string{}}
}

// quote returns the value of key in quotes, as the file has it.
func (r *report) quote(key, value string) string {
	if raw, ok := r.raw[key]; ok {
		value = raw
	}
	const most = 80
	if len(value) > most {
		value = strings.ToValidUTF8(value[:most], "") + "..."
	}
	return strconv.Quote(value)
}

func (r *report) at(p place, key, format string, args ...any) {
	r.errs = append(r.errs, &Error{File: r.file, Line: p.line, Column: p.column, Key: key, Msg: fmt.Sprintf(format, args...)})
}

// key reports a mistake in key, at its place or at that of what holds it.
func (r *report) key(key, format string, args ...any) {
	for k := key; k != ""; k = k[:max(0, strings.LastIndexAny(k, ".["))] {
		if p, ok := r.places[k]; ok {
			r.at(p, key, format, args...)
			return
		}
	}
	r.at(place{}, key, format, args...)
}

// has reports whether the file sets key.
func (r *report) has(key string) bool {
	_, ok := r.places[key]
	return ok
}

// err returns all mistakes in the order of the file, nil if there are none.
func (r *report) err() error {
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	joined := make([]error, len(r.errs))
	for i, e := range r.errs {
		joined[i] = e
	}
	return errors.Join(joined...)
}
