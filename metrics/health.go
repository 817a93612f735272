package metrics

import (
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of one scrape, so that a monitor gone wild cannot hold the daemon up.
const (
	scrapeTimeout = 10 * time.Second
	scrapesAtOnce = 4
)

// Handler serves the families in the format that the scraper asks for. A family
// that cannot be collected is left out; more than a few scrapes at once are
// answered by 503.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             scrapeTimeout,
	})
}

// Health is the whole of the monitoring listener: /metrics; /healthz, 200 as
// long as the process serves; /readyz, 200 or, with the reason as text, 503
// while ready returns an error. Anything else is 404. ready is called once a
// probe, by many goroutines, and must not block; nil is always ready.
func (m *Metrics) Health(ready func() error) http.Handler {
	families := m.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics", "/healthz", "/readyz":
		default:
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		switch r.URL.Path {
		case "/metrics":
			families.ServeHTTP(w, r)
		case "/readyz":
			if ready != nil {
				if err := ready(); err != nil {
					http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
					return
				}
			}
			answerOK(w)
		default:
			answerOK(w)
		}
	})
}

func answerOK(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, "ok\n") // the monitor has gone
}
