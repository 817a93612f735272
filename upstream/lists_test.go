package upstream

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/entrepot/entrepot/internal/fault"
)

func TestTags(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch repo := strings.Split(r.URL.Path, "/")[2]; {
		case repo == "none":
			io.WriteString(w, `{"name":"a","tags":null}`)
		case repo == "html":
			io.WriteString(w, `<html>`)
		case r.URL.RawQuery == "n=1000":
			w.Header().Set("Link", `</v2/pages/tags/list?next_page=opaque>; rel="next"`)
			io.WriteString(w, `{"name":"pages","tags":["y","z"]}`)
		case r.URL.RawQuery == "next_page=opaque":
			io.WriteString(w, `{"name":"pages","tags":["a"]}`)
		}
	})
	c := client(t, nil, s.URL)
	if tags, err := c.Tags(t.Context(), "none"); err != nil || len(tags) != 0 {
		t.Errorf("%v %v", tags, err)
	}
	if tags, err := c.Tags(t.Context(), "pages"); err != nil || !slices.Equal(tags, []string{"y", "z", "a"}) {
		t.Errorf("%v %v", tags, err)
	}
	_, err := c.Tags(t.Context(), "html")
	wantFault(t, err, fault.Damaged)
}

func TestNextLink(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		`</a?x=1>; rel="next"`: "/a?x=1",
		`</a>;rel=next`:        "/a",
		`</p>; rel="prev", </n>; title=x; REL="next"`: "/n",
		`</p>; rel="last"`:                            "",
		`<`:                                           "",
		`/a; rel=next`:                                "",
	} {
		if got := nextLink([]string{in}); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestReferrers(t *testing.T) {
	d := digest(nil)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		page := r.URL.Query().Get("page")
		repo := strings.Split(r.URL.Path, "/")[2]
		switch {
		case repo == "one":
			io.WriteString(w, `{"schemaVersion":2,  "manifests":[ ] }`)
		case repo == "pages" && page == "":
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=2>; rel="next"`, r.URL.Path))
			io.WriteString(w, `{"schemaVersion":2,"annotations":{"k":"v"},"manifests":[{"digest":"1"}]}`)
		case repo == "pages":
			io.WriteString(w, `{"schemaVersion":2,"manifests":[{"digest":"2","x":1}]}`)
		case repo == "endless":
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=x>; rel="next"`, r.URL.Path))
			io.WriteString(w, `{"manifests":[]}`)
		case repo == "away":
			w.Header().Set("Link", `<http://other.example/v2/x?sig=1>; rel="next"`)
			io.WriteString(w, `{"manifests":[]}`)
		case repo == "unknown":
			w.WriteHeader(404)
			io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
		case repo == "html":
			io.WriteString(w, `<html>`)
		case repo == "noindex":
			io.WriteString(w, `{}`)
		default:
			w.WriteHeader(404)
		}
	})
	c := client(t, nil, s.URL)
	raw, err := c.Referrers(t.Context(), "one", d)
	if err != nil || string(raw) != `{"schemaVersion":2,  "manifests":[ ] }` {
		t.Errorf("%s %v", raw, err)
	}
	raw, err = c.Referrers(t.Context(), "pages", d)
	var merged struct {
		Annotations map[string]string
		Manifests   []map[string]any
	}
	if err != nil || json.Unmarshal(raw, &merged) != nil || len(merged.Manifests) != 2 || merged.Annotations["k"] != "v" || merged.Manifests[1]["x"] != 1.0 {
		t.Errorf("%s %v", raw, err)
	}
	for repo, kind := range map[string]fault.Kind{
		"endless": fault.Damaged, "away": fault.Refused, "unknown": fault.NotFound, "none": fault.Unsupported, "html": fault.Unsupported, "noindex": fault.Unsupported,
	} {
		t.Run(repo, func(t *testing.T) {
			_, err := c.Referrers(t.Context(), repo, d)
			wantFault(t, err, kind)
		})
	}
}
