package metrics_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/entrepot/entrepot/metrics"
)

var update = flag.Bool("update", false, "write testdata/families.golden anew")

// everything returns metrics in which each family has a series.
func everything() *metrics.Metrics {
	m := metrics.New("v1.2.3")
	m.Request("docker.io", "blob", "HIT", 200, 10, time.Millisecond, time.Second)
	m.Upstream("docker.io", "blob", "ok", 10, time.Second)
	m.Stale("docker.io", "unavailable")
	m.Credentials("docker.io", "ok")
	m.Reload(true)
	m.InFlight(1)
	m.Cache(func() metrics.CacheStats { return metrics.CacheStats{} })
	return m
}

type family struct{ name, kind, labels, help string }

// families are those of ours; the Go runtime's depend on its version and the system.
func families(t *testing.T, m *metrics.Metrics) []family {
	t.Helper()
	gathered, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []family
	for _, f := range gathered {
		if !strings.HasPrefix(f.GetName(), "entrepot_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		out = append(out, family{f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ","), f.GetHelp()})
	}
	return out
}

// What dashboards and alerts are built on changes only on purpose.
func TestFamilies(t *testing.T) {
	var b strings.Builder
	for _, f := range families(t, everything()) {
		fmt.Fprintf(&b, "%s %s {%s} %s\n", f.name, f.kind, f.labels, f.help)
	}
	const golden = "testdata/families.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("families (-want +got):\n%s", diff)
	}
}

// docs/metrics.md has a row for each family, with its type and labels, and no other.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for line := range strings.SplitSeq(string(page), "\n") {
		if cells := strings.Split(line, "|"); strings.HasPrefix(line, "| `entrepot_") && len(cells) == 6 {
			got = append(got, strings.Join([]string{clean(cells[1]), clean(cells[2]), clean(cells[3])}, " | "))
			if strings.TrimSpace(cells[4]) == "" {
				t.Errorf("%s is not explained", cells[1])
			}
		}
	}
	all := families(t, everything())
	for _, f := range all {
		want = append(want, f.name+" | "+f.kind+" | "+f.labels)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	for _, name := range regexp.MustCompile(`entrepot_[a-z_]+`).FindAllString(string(page), -1) {
		bare := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if !slices.ContainsFunc(all, func(f family) bool {
			return f.name == bare || strings.HasSuffix(name, "_") && strings.HasPrefix(f.name, name)
		}) {
			t.Errorf("the page mentions %s, which is not there", name)
		}
	}
}

func clean(cell string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(cell), "`", ""), ", ", ",")
}

// The names follow Prometheus's conventions.
func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(everything().Registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "entrepot_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
