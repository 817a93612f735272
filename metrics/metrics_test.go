package metrics_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot/entrepot/metrics"
)

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape answered %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestValues(t *testing.T) {
	m := metrics.New("v1.2.3")
	m.Request("docker.io", "blob", "HIT", 206, 100, 3*time.Millisecond, 2*time.Second)
	m.Request("docker.io", "blob", "HIT", 200, 50, 3*time.Millisecond, 2*time.Second)
	m.Request("docker.io", "blob", "MISS", 503, 0, 0, time.Second)
	m.Request("", "manifest", "", 405, -1, 0, 0)
	m.Request("ghcr.io", "tags", "MISS", 0, 0, 0, time.Second)
	m.Upstream("docker.io", "blob", "ok", 70, time.Second)
	m.Upstream("docker.io", "blob", "throttled", -1, time.Second)
	m.Stale("docker.io", "throttled")
	m.Stale("docker.io", "slow")
	m.Credentials("quay.io", "denied")
	m.InFlight(3)
	m.InFlight(-1)
	page := scrape(t, m)
	for _, want := range []string{
		`entrepot_build_info{goversion="` + runtime.Version() + `",version="v1.2.3"} 1`,
		`entrepot_requests_total{code="2xx",kind="blob",result="HIT",upstream="docker.io"} 2`,
		`entrepot_requests_total{code="5xx",kind="blob",result="MISS",upstream="docker.io"} 1`,
		`entrepot_requests_total{code="4xx",kind="manifest",result="NONE",upstream="none"} 1`,
		`entrepot_requests_total{code="other",kind="tags",result="MISS",upstream="ghcr.io"} 1`,
		`entrepot_client_bytes_total{kind="blob",upstream="docker.io"} 150`,
		`entrepot_client_bytes_total{kind="manifest",upstream="none"} 0`,
		`entrepot_time_to_first_byte_seconds_bucket{kind="blob",result="HIT",le="0.0025"} 0`,
		`entrepot_time_to_first_byte_seconds_bucket{kind="blob",result="HIT",le="0.005"} 2`,
		`entrepot_time_to_first_byte_seconds_count{kind="blob",result="MISS"} 0`,
		`entrepot_request_seconds_sum{kind="blob",result="HIT"} 4`,
		`entrepot_upstream_requests_total{kind="blob",result="throttled",upstream="docker.io"} 1`,
		`entrepot_upstream_bytes_total{kind="blob",upstream="docker.io"} 70`,
		`entrepot_upstream_request_seconds_count{kind="blob",upstream="docker.io"} 2`,
		`entrepot_stale_answers_total{cause="throttled",upstream="docker.io"} 1`,
		`entrepot_stale_answers_total{cause="slow",upstream="docker.io"} 1`,
		`entrepot_credential_refreshes_total{result="denied",upstream="quay.io"} 1`,
		`entrepot_requests_in_flight 2`,
		`go_goroutines `,
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("no line %s", want)
		}
	}
	if strings.Contains(page, "entrepot_cache_") {
		t.Error("the cache shows numbers that nobody gave")
	}
}

func TestReload(t *testing.T) {
	m := metrics.New("v1")
	started := value(t, m, "entrepot_config_last_reload_success_timestamp_seconds")
	if value(t, m, "entrepot_config_last_reload_successful") != "1" || started == "0" {
		t.Error("the load at the start is not shown")
	}
	m.Reload(false)
	if got := value(t, m, "entrepot_config_last_reload_successful"); got != "0" {
		t.Errorf("after a bad reload: %s", got)
	}
	if got := value(t, m, "entrepot_config_last_reload_success_timestamp_seconds"); got != started {
		t.Errorf("a bad reload moved the time from %s to %s", started, got)
	}
	m.Reload(true)
	if got := value(t, m, "entrepot_config_last_reload_successful"); got != "1" {
		t.Errorf("after a good reload: %s", got)
	}
	if value(t, m, `entrepot_config_reloads_total{result="ok"}`) != "1" || value(t, m, `entrepot_config_reloads_total{result="failed"}`) != "1" {
		t.Error("reloads are miscounted")
	}
}

func value(t *testing.T, m *metrics.Metrics, series string) string {
	t.Helper()
	for line := range strings.Lines(scrape(t, m)) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no series %s", series)
	return ""
}

// Each number of the store has a family of its own, and the latest source counts.
func TestCache(t *testing.T) {
	m := metrics.New("v1")
	m.Cache(func() metrics.CacheStats { return metrics.CacheStats{BytesHeld: 99} })
	m.Cache(func() metrics.CacheStats {
		return metrics.CacheStats{
			BytesHeld: 1, BytesAllowed: 2, Blobs: 3, Fills: 4, Background: 5, Waiters: 6, Landed: 7, Completed: 8, Failed: 9,
			Mismatches: 10, Evicted: 11, EvictedBytes: 12, Through: 13, ThroughBytes: 14, NoRanges: 15, Resumed: 16, DiskErrors: 17, IndexLoaded: true,
		}
	})
	page, got := scrape(t, m), map[string]string{}
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, "entrepot_cache_"); ok {
			name, v, _ := strings.Cut(strings.TrimSpace(rest), " ")
			got[name] = v
		}
	}
	want := map[string]string{
		"held_bytes": "1", "allowed_bytes": "2", "blobs": "3", "fills": "4", "background_fills": "5", "waiters": "6",
		"landed_bytes_total": "7", "fills_completed_total": "8", "fills_failed_total": "9", "mismatches_total": "10",
		"evicted_total": "11", "evicted_bytes_total": "12", "through_total": "13", "through_bytes_total": "14",
		"no_ranges_total": "15", "resumed_total": "16", "disk_errors_total": "17", "index_loaded": "1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHealth(t *testing.T) {
	var mu sync.Mutex
	var reason error
	h := everything().Health(func() error { mu.Lock(); defer mu.Unlock(); return reason })
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	for _, c := range []struct {
		method, path string
		reason       error
		status       int
		body         string
	}{
		{"GET", "/healthz", nil, 200, "ok\n"},
		{"GET", "/healthz", errors.New("draining"), 200, "ok\n"},
		{"GET", "/readyz", nil, 200, "ok\n"},
		{"GET", "/readyz", errors.New("draining"), 503, "not ready: draining\n"},
		{"HEAD", "/readyz", errors.New("draining"), 503, ""},
		{"GET", "/metrics", nil, 200, "entrepot_requests_total"},
		{"POST", "/metrics", nil, 405, "only GET and HEAD\n"},
		{"GET", "/", nil, 404, ""},
		{"GET", "/metrics/", nil, 404, ""},
		{"GET", "//metrics", nil, 404, ""},
		{"GET", "/debug/pprof/", nil, 404, ""},
		{"GET", "/v2/", nil, 404, ""},
		{"POST", "/other", nil, 404, ""},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			mu.Lock()
			reason = c.reason
			mu.Unlock()
			req, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || !strings.Contains(string(body), c.body) {
				t.Errorf("answered %d %q, want %d %q", resp.StatusCode, body, c.status, c.body)
			}
		})
	}
	w := httptest.NewRecorder()
	everything().Health(nil).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusOK {
		t.Errorf("without a condition: %d", w.Code)
	}
}

// Scrapes and counting go on at once.
func TestConcurrent(t *testing.T) {
	m := metrics.New("v1")
	m.Cache(func() metrics.CacheStats { return metrics.CacheStats{} })
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 200 {
				m.Request(fmt.Sprintf("host%d", j%8), "blob", "HIT", 200, 1, 1, 1)
				m.Upstream(fmt.Sprintf("host%d", i), "blob", "ok", 1, 1)
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			if _, err := m.Registry().Gather(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	total := 0.0
	gathered, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range gathered {
		if f.GetName() == "entrepot_requests_total" {
			for _, s := range f.GetMetric() {
				total += s.GetCounter().GetValue()
			}
		}
	}
	if total != 800 {
		t.Errorf("counted %v of 800", total)
	}
}

// A request that has been seen before costs no allocation.
func TestHotPathAllocatesNothing(t *testing.T) {
	m := everything()
	if n := testing.AllocsPerRun(100, func() {
		m.Request("docker.io", "blob", "HIT", 200, 10, time.Millisecond, time.Second)
		m.Upstream("docker.io", "blob", "ok", 10, time.Second)
		m.InFlight(1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	m := everything()
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			m.Request("docker.io", "blob", "HIT", 200, 10, time.Millisecond, time.Second)
		}
	})
}
