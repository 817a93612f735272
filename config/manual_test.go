package config_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/entrepot/entrepot/config"
)

// The example says what the defaults say; with its remarks turned into
// keys it is still valid, and it names every key there is.
func TestExample(t *testing.T) {
	c, err := config.Parse("example.yaml", config.Example(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), c); diff != "" {
		t.Errorf("the example is not the default (-want +got):\n%s", diff)
	}
	all := regexp.MustCompile(`(?m)^( *)#(\S|  )`).ReplaceAllString(string(config.Example()), "$1$2")
	c, err = config.Parse("example.yaml", []byte(all), nil)
	if err != nil {
		t.Fatal(err)
	}
	if u, _, ok := c.Lookup("registry"); !ok || u.Name != "registry.example.com" || len(u.Rules) != 3 {
		t.Errorf("the example's own registry is not there: %v", u)
	}
	for _, key := range config.Keys() {
		word := key[strings.LastIndexByte(key, '.')+1:]
		if !regexp.MustCompile(`\b` + word + `:`).MatchString(all) {
			t.Errorf("the example lacks %s", key)
		}
	}
	config.Example()[0] = 'x'
	if config.Example()[0] == 'x' {
		t.Error("Example hands out the same bytes twice")
	}
}

// Every field of the schema says what it means and what it is when left out.
func TestFieldsAreDocumented(t *testing.T) {
	found := 0
	for _, file := range []string{"config.go", "upstream.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok || field.Tag == nil {
				return true
			}
			found++
			name, doc := field.Names[0].Name, field.Doc.Text()
			section := false
			if id, ok := field.Type.(*ast.Ident); ok {
				section = slices.Contains([]string{"TLS", "Clients", "Metrics", "Admin", "Log", "Server", "Cache", "Fetch",
					"Timeouts", "EndpointTLS", "Credentials", "Tags", "Redirects", "Limits", "ECR"}, id.Name)
			}
			if !strings.HasPrefix(doc, name) || !section && !strings.Contains(doc, "Default:") && !strings.Contains(doc, "Required.") {
				t.Errorf("%s: %s says too little: %q", file, name, doc)
			}
			return true
		})
	}
	if found < 50 {
		t.Errorf("found only %d fields", found)
	}
}

// docs/configuration.md has a row for every value, with the right default and
// the right word about reloading.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.SplitSeq(string(page), "\n") {
		if cells := strings.Split(line, "|"); strings.HasPrefix(line, "| `") && len(cells) == 6 {
			rows[strings.Trim(cells[1], " `")] = cells
		}
	}
	values, keys := defaultValues(t), config.Keys()
	for _, key := range keys {
		if slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, key+".") || strings.HasPrefix(k, key+"[]") }) {
			continue // a section
		}
		cells, ok := rows[key]
		if !ok {
			t.Errorf("no row for %s", key)
			continue
		}
		delete(rows, key)
		got := strings.Trim(cells[2], " `")
		if want, ok := values[key]; ok && got != want && !sameDuration(got, want) {
			t.Errorf("%s: default %s, want %s", key, got, want)
		}
		restart := slices.ContainsFunc(config.RestartKeys(), func(k string) bool { return k == key || strings.HasPrefix(key, k+".") })
		if (strings.TrimSpace(cells[4]) == "restart") != restart {
			t.Errorf("%s: restart %v, the page says %q", key, restart, cells[4])
		}
	}
	for key := range rows {
		t.Errorf("%s has a row and is no key", key)
	}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1) {
		if _, err := config.Parse("configuration.md", block[1], nil); err != nil {
			t.Error(err)
		}
	}
}

func sameDuration(a, b string) bool {
	x, errX := time.ParseDuration(a)
	y, errY := time.ParseDuration(b)
	return errX == nil && errY == nil && x == y
}

// defaultValues returns the defaults as a file would have them, by key. An
// upstream's are those of ghcr.io, of which nothing special is known.
func defaultValues(t *testing.T) map[string]string {
	t.Helper()
	shown, err := config.Default().Show()
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(shown, &tree); err != nil {
		t.Fatal(err)
	}
	upstream := tree["upstreams"].([]any)[1].(map[string]any)
	endpoint := upstream["endpoints"].([]any)[0].(map[string]any)
	endpoint["url"] = "" // the name is filled in
	delete(upstream, "name")
	tree["upstreams"], upstream["endpoints"] = map[string]any{"[]": upstream}, map[string]any{"[]": endpoint}
	values := map[string]string{"upstreams[].name": "required", "upstreams[].rules[].repositories": "required", "upstreams[].rules[].allow": "true"}
	flatten(tree, "", values)
	delete(values, "upstreams[].rules")
	if len(values) < 45 {
		t.Fatalf("only %d values", len(values))
	}
	return values
}

func flatten(v any, key string, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			path := key + "." + k
			if k == "[]" {
				path = key + k
			}
			flatten(child, strings.TrimPrefix(path, "."), out)
		}
	case []any:
		quoted := make([]string, len(v))
		for i := range v {
			quoted[i] = fmt.Sprintf("%q", v[i])
		}
		out[key] = "[" + strings.Join(quoted, ", ") + "]"
	case string:
		out[key] = v
		if v == "" {
			out[key] = `""`
		}
	default:
		out[key] = fmt.Sprint(v)
	}
}

// Every key can be told from a field, and no tag is misspelt.
func TestSchemaTags(t *testing.T) {
	known := []string{"yaml", "range", "oneof", "later", "restart"}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ.PkgPath() != reflect.TypeFor[config.Config]().PkgPath() {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() || f.Tag == "" {
				continue
			}
			for _, m := range regexp.MustCompile(`(\w+):"`).FindAllStringSubmatch(string(f.Tag), -1) {
				if !slices.Contains(known, m[1]) {
					t.Errorf("%s.%s: unknown tag %s", typ, f.Name, m[1])
				}
			}
			if want := strings.ToLower(f.Name); strings.ToLower(f.Tag.Get("yaml")) != want {
				t.Errorf("%s.%s is called %q in the file", typ, f.Name, f.Tag.Get("yaml"))
			}
			walk(f.Type)
		}
	}
	walk(reflect.TypeFor[config.Config]())
}
