package metrics_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/entrepot/entrepot/metrics"
)

// Whatever callers hand over, the number of series stays bounded, and nothing
// that Prometheus refuses (and client_golang panics at) comes through.
func TestLabelsAreBounded(t *testing.T) {
	m := metrics.New("\xff")
	for i := range 2000 {
		odd := fmt.Sprintf("sha256:%064d\xff", i)
		host := fmt.Sprintf("host%d.example.com", i)
		m.Request(host, odd, odd, 200+i, 1, time.Second, time.Second)
		m.Request(odd, "blob", "HIT", 200, 1, time.Second, time.Second)
		m.Request(strings.Repeat("a", 300+i), "blob", "HIT", 200, 1, time.Second, time.Second)
		m.Upstream(host, odd, odd, 1, time.Second)
		m.Stale(host, odd)
		m.Stale(host, "ok")
		m.Credentials(host, odd)
	}
	gathered, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]map[string]bool{}
	for _, f := range gathered {
		if !strings.HasPrefix(f.GetName(), "entrepot_") || f.GetName() == "entrepot_build_info" {
			continue
		}
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
	}
	// 256 names and "other".
	for label, most := range map[string]int{"upstream": 257, "kind": 2, "result": 3, "code": 5, "cause": 1} {
		if n := len(values[label]); n > most || n == 0 {
			t.Errorf("%s has %d values, at most %d are right", label, n, most)
		}
	}
	if !values["upstream"]["host0.example.com"] || !values["upstream"]["other"] {
		t.Error("the first upstreams keep their names, later ones are other")
	}
}

// The lists of labels.go are the whole set of values.
func TestEveryLabelValue(t *testing.T) {
	m := metrics.New("v1")
	faults := []string{"unavailable", "not_found", "denied", "refused", "throttled", "damaged", "unsupported", "busy"}
	kinds := []string{"blob", "manifest", "ping", "referrers", "tags", "token"}
	for _, k := range append(kinds, "repository") {
		m.Request("a", k, "HIT", 200, 0, 0, 0)
		for _, r := range append(faults, "ok", "canceled", "surprise") {
			m.Upstream("a", k, r, 0, 0)
		}
	}
	page := scrape(t, m)
	for _, k := range append(kinds, "other") {
		if !strings.Contains(page, `entrepot_requests_total{code="2xx",kind="`+k+`",result="HIT",upstream="a"} 1`) {
			t.Errorf("kind %s is not counted", k)
		}
		for _, r := range append(faults, "ok", "canceled", "other") {
			if !strings.Contains(page, `entrepot_upstream_requests_total{kind="`+k+`",result="`+r+`",upstream="a"} 1`) {
				t.Errorf("%s %s is not counted", k, r)
			}
		}
	}
}
