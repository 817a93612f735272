package config

import (
	"errors"
	"fmt"
	"strings"
)

var errDollar = errors.New("holds a $ that begins no ${NAME}: write $$ for a dollar sign")

// expand replaces ${NAME} in raw by what env says, and $$ by a dollar sign. Its
// errors name the variable, never a value.
func expand(raw string, env func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(raw, '$')
		if i < 0 {
			b.WriteString(raw)
			return b.String(), nil
		}
		b.WriteString(raw[:i])
		raw = raw[i+1:]
		if rest, ok := strings.CutPrefix(raw, "$"); ok {
			b.WriteByte('$')
			raw = rest
			continue
		}
		rest, ok := strings.CutPrefix(raw, "{")
		name, rest, closed := strings.Cut(rest, "}")
		if !ok || !closed || !isVariable(name) {
			return "", errDollar
		}
		value, defined := "", false
		if env != nil {
			value, defined = env(name)
		}
		if !defined {
			return "", fmt.Errorf("${%s} is not defined in the environment: define it, or write $$ for a dollar sign", name)
		}
		b.WriteString(value)
		raw = rest
	}
}

func isVariable(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
