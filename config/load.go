package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile is the largest file that is read, in bytes: far beyond any that an
// operator writes, and small enough for a parser that is not linear.
const maxFile = 256 << 10

// Load reads the file at path; with path "" it returns the defaults. env looks
// up environment variables (os.LookupEnv). Errors are as from Parse, or say why
// the file could not be read.
func Load(path string, env func(string) (string, bool)) (*Config, error) {
	if path == "" {
		return Default(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data, env)
}

// Parse reads a file's content; name is what errors call the file. ${NAME} in a
// value is what env says NAME is, $$ is a dollar sign; the values are put in
// after the YAML was parsed, so they cannot change its structure. The error
// joins one *Error for every mistake.
func Parse(name string, data []byte, env func(string) (string, bool)) (*Config, error) {
	r := newReport(name)
	body := r.parse(data)
	c := defaults()
	if body != nil && len(r.errs) == 0 {
		d := decoder{report: r, env: env}
		d.decode(body, reflect.ValueOf(c).Elem(), field{})
	}
	if len(r.errs) == 0 {
		c.complete(r)
	}
	if len(r.errs) == 0 {
		c.validate(r)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// parse returns the file's only document, nil if it is empty or cannot be read.
func (r *report) parse(data []byte) ast.Node {
	start := place{1, 1}
	if len(data) > maxFile {
		r.at(start, "", "is larger than %d KiB", maxFile>>10)
		return nil
	}
	if i := invalidUTF8(data); i >= 0 {
		r.at(place{1 + bytes.Count(data[:i], []byte("\n")), 1}, "", "is not UTF-8 text")
		return nil
	}
	f, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		msg := "is not YAML"
		var ye yaml.Error
		if errors.As(err, &ye) {
			msg += ": " + strings.ReplaceAll(ye.GetMessage(), "\t", `\t`)
			if t := ye.GetToken(); t != nil && t.Position != nil {
				start = place{t.Position.Line, t.Position.Column}
			}
		}
		r.at(start, "", "%s", msg)
		return nil
	}
	var body ast.Node
	for _, doc := range f.Docs {
		switch _, directive := doc.Body.(*ast.DirectiveNode); {
		case doc.Body == nil || directive:
		case body != nil:
			r.at(placeOf(doc.Body), "", "is a second document: a configuration is one")
			return nil
		default:
			body = doc.Body
		}
	}
	return body
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		c, n := utf8.DecodeRune(data[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// placeOf is where a reader would say that n begins.
func placeOf(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return place{t.Position.Line, t.Position.Column}
	}
	return place{1, 1}
}
