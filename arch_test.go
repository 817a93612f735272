package entrepot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const module = "github.com/entrepot/entrepot"

// everything of ours, test upstreams apart.
const everything = "*"

// A layer says what a package may import of ours. Paths are relative to the
// module; one that ends in /... stands for all below it as well.
type layer struct {
	of  string
	may []string
}

// The import table. The first row that matches holds; a package without a row
// is an error, so a new package gets its place here. Tests may import more.
func layers() []layer {
	return []layer{
		{"cmd/...", []string{everything}},
		{"proxy", []string{"cache", "cache/refs", "metrics", "internal/fault"}},
		{"upstream", []string{"internal/fault"}},
		{"authn", nil},
		{"cache", []string{"cache/refs", "cache/links", "cache/index", "cache/evict"}},
		{"cache/refs", nil},
		{"cache/links", nil},
		{"cache/index", nil},
		{"cache/evict", nil},
		{"config", nil},
		{"metrics", nil},
		{"internal/fault", nil},
		{"internal/registrytest", nil},
		{"internal/registrytest/cmd/...", []string{"internal/registrytest"}},
		{"e2e/...", []string{"internal/registrytest"}},
		{"bench/...", []string{"internal/registrytest", "bench/..."}},
	}
}

// A fence keeps others' code where it belongs. path ends in / where it stands
// for all below it.
type fence struct {
	path string
	only []string // packages of ours that may import it; nil: not looked at
	not  []string // packages of ours that may not
}

func fences() []fence {
	return []fence{
		{path: "net/http", not: []string{"cache/...", "config", "internal/fault"}},
		{path: "github.com/aws/", only: []string{"authn"}},
		{path: "github.com/prometheus/", only: []string{"metrics", "cmd/..."}},
		{path: "github.com/dgraph-io/", only: []string{"cache/index"}},
		{path: "github.com/goccy/go-yaml", only: []string{"config"}},
		{path: "github.com/goccy/go-yaml/", only: []string{"config"}},
		{path: "github.com/spf13/", only: []string{"cmd/...", "bench/..."}},
		{path: "github.com/coreos/go-systemd/", only: []string{"cmd/..."}},
		{path: "github.com/google/go-cmp/", only: []string{}},
		{path: "github.com/rogpeppe/go-internal/", only: []string{}},
		{path: "go.uber.org/goleak", only: []string{}},
	}
}

func covers(pattern, path string) bool {
	base, below := strings.CutSuffix(pattern, "/...")
	return path == base || below && strings.HasPrefix(path, base+"/")
}

func anyCovers(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return covers(p, path) })
}

// trouble returns what is wrong with pkg importing path, "" if nothing is.
func trouble(pkg, path string) string {
	if ours, ok := strings.CutPrefix(path, module+"/"); ok {
		all := layers()
		i := slices.IndexFunc(all, func(l layer) bool { return covers(l.of, pkg) })
		switch {
		case i < 0:
			return "has no row in the import table"
		case anyCovers(all[i].may, ours):
			return ""
		case slices.Contains(all[i].may, everything) && !covers("internal/registrytest/...", ours):
			return ""
		}
		return "may not import " + ours
	}
	for _, f := range fences() {
		if path != f.path && (!strings.HasSuffix(f.path, "/") || !strings.HasPrefix(path, f.path)) {
			continue
		}
		if f.only != nil && !anyCovers(f.only, pkg) || anyCovers(f.not, pkg) {
			return "may not import " + path
		}
	}
	return ""
}

// A source is one Go file that is not a test, whatever system it is built for.
type source struct {
	pkg, name string // package and file, relative to the module
	file      *ast.File
	lines     int
}

// sources parses all that go list knows, files for other systems included.
func sources(t *testing.T) []source {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(goTool(t, "list", "-e", "-json=ImportPath,Dir,GoFiles,CgoFiles,IgnoredGoFiles", "./...")))
	var out []source
	for {
		var p struct {
			ImportPath, Dir                   string
			GoFiles, CgoFiles, IgnoredGoFiles []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles) {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, source{pkg, filepath.Join(pkg, name), file, bytes.Count(text, []byte("\n"))})
		}
	}
	if len(out) < 20 {
		t.Fatalf("go list found only %d files", len(out))
	}
	return out
}

func goTool(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go %v: %v\n%s", args, err, exit.Stderr)
		}
		t.Fatal(err)
	}
	return out
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if !slices.ContainsFunc(layers(), func(l layer) bool { return covers(l.of, s.pkg) }) {
			t.Errorf("%s: %q has no row in the import table", s.name, s.pkg)
		}
		for _, i := range s.file.Imports {
			if what := trouble(s.pkg, strings.Trim(i.Path.Value, `"`)); what != "" {
				t.Errorf("%s: %s %s", s.name, s.pkg, what)
			}
		}
	}
}

// The table refuses what it is there to refuse.
func TestImportTable(t *testing.T) {
	for _, c := range []struct {
		pkg, path string
		ok        bool
	}{
		{"cmd/entrepot", module + "/upstream", true},
		{"cmd/entrepot", module + "/internal/registrytest", false},
		{"proxy", module + "/cache", true},
		{"proxy", module + "/cache/index", false},
		{"proxy", module + "/upstream", false},
		{"proxy", module + "/authn", false},
		{"proxy", module + "/config", false},
		{"proxy", "net/http", true},
		{"upstream", module + "/internal/fault", true},
		{"upstream", module + "/authn", false},
		{"authn", module + "/internal/fault", false},
		{"authn", "github.com/aws/aws-sdk-go-v2/config", true},
		{"upstream", "github.com/aws/aws-sdk-go-v2/config", false},
		{"cache", module + "/cache/refs", true},
		{"cache", module + "/metrics", false},
		{"cache/refs", module + "/cache", false},
		{"cache/index", "net/http", false},
		{"cache", "net/http", false},
		{"cache", "net/netip", true},
		{"cache", "github.com/prometheus/client_golang/prometheus", false},
		{"metrics", "github.com/prometheus/client_golang/prometheus", true},
		{"metrics", module + "/cache", false},
		{"config", "github.com/goccy/go-yaml/ast", true},
		{"proxy", "github.com/goccy/go-yaml", false},
		{"config", "go.uber.org/goleak", false},
		{"surprise", module + "/cache", false},
	} {
		if what := trouble(c.pkg, c.path); (what == "") != c.ok {
			t.Errorf("%s importing %s: %q", c.pkg, c.path, what)
		}
	}
}

// Packages start nothing and hold nothing by being imported.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has an init function", s.name)
			}
		}
	}
}

func TestFileLength(t *testing.T) {
	const most = 350
	for _, s := range sources(t) {
		if s.lines > most {
			t.Errorf("%s has %d lines; at %d a file wants another look", s.name, s.lines, most)
		}
	}
}

func TestPackageComments(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		doc := s.file.Doc.Text()
		documented[s.pkg] = documented[s.pkg] || strings.HasPrefix(doc, "Package "+s.file.Name.Name+" ") ||
			s.file.Name.Name == "main" && strings.HasPrefix(doc, "Command ")
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("%s has no comment that starts with Package or, for a program, with Command", pkg)
		}
	}
}

// Every direct requirement has its reason in the record.
func TestDependenciesAreExplained(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(goTool(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/adr/0001-records-and-dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); strings.HasPrefix(line, "| `") && len(cells) == 6 {
			explained[strings.Trim(cells[1], " `")] = true
		}
	}
	for _, r := range mod.Require {
		if !r.Indirect && !explained[r.Path] {
			t.Errorf("%s is not explained in docs/adr/0001-records-and-dependencies.md", r.Path)
		}
		delete(explained, r.Path)
	}
	for path := range explained {
		t.Errorf("%s is explained and not required", path)
	}
}
