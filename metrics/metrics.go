package metrics

import (
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const namespace = "entrepot"

// Metrics counts what the daemon does. New makes one; there is no useful zero value.
type Metrics struct {
	registry *prometheus.Registry
	names    names

	requests    *prometheus.CounterVec
	clientBytes *prometheus.CounterVec
	firstByte   *prometheus.HistogramVec
	duration    *prometheus.HistogramVec
	inFlight    prometheus.Gauge

	upstreamRequests *prometheus.CounterVec
	upstreamBytes    *prometheus.CounterVec
	upstreamDuration *prometheus.HistogramVec

	stale       *prometheus.CounterVec
	credentials *prometheus.CounterVec

	reloads      *prometheus.CounterVec
	reloadOK     prometheus.Gauge
	reloadedWhen prometheus.Gauge

	cache atomic.Pointer[func() CacheStats]

	served table[requestKey, requestSeries]
	asked  table[upstreamKey, upstreamSeries]
}

// New returns the metrics of one daemon in a registry of their own, with the
// collectors of the Go runtime and the process. version is what
// entrepot_build_info shows.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		names:    names{seen: map[string]struct{}{}},
		served:   table[requestKey, requestSeries]{m: map[requestKey]requestSeries{}},
		asked:    table[upstreamKey, upstreamSeries]{m: map[upstreamKey]upstreamSeries{}},
	}
	m.makeClientFamilies()
	m.makeUpstreamFamilies()
	m.makeDaemonFamilies()
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(version),
		m.requests, m.clientBytes, m.firstByte, m.duration, m.inFlight,
		m.upstreamRequests, m.upstreamBytes, m.upstreamDuration,
		m.stale, m.credentials,
		m.reloads, m.reloadOK, m.reloadedWhen,
		newCacheCollector(&m.cache),
	)
	// The daemon runs with a configuration that it has read: that is the first load.
	m.reloadOK.Set(1)
	m.reloadedWhen.SetToCurrentTime()
	return m
}

func (m *Metrics) makeClientFamilies() {
	m.requests = counters("requests_total",
		"Requests of clients that have ended, by the part that the cache had in them and the class of the status.",
		"upstream", "kind", "result", "code")
	m.clientBytes = counters("client_bytes_total",
		"Bytes of bodies sent to clients.", "upstream", "kind")
	m.firstByte = histograms("time_to_first_byte_seconds",
		"From a client's request to the headers of the answer, which the first byte follows.", firstByteBuckets(), "kind", "result")
	m.duration = histograms("request_seconds",
		"From a client's request to the end of its answer.", durationBuckets(), "kind", "result")
	m.inFlight = gauge("requests_in_flight", "Requests of clients under way.")
}

func (m *Metrics) makeUpstreamFamilies() {
	m.upstreamRequests = counters("upstream_requests_total",
		"Requests to upstreams that have ended, by what came of them.", "upstream", "kind", "result")
	m.upstreamBytes = counters("upstream_bytes_total",
		"Bytes of bodies received from upstreams.", "upstream", "kind")
	m.upstreamDuration = histograms("upstream_request_seconds",
		"From a request to an upstream to the end of its body.", durationBuckets(), "upstream", "kind")
	m.stale = counters("stale_answers_total",
		"Tags answered from the cache although the upstream could not confirm them, by why it could not.", "upstream", "cause")
	m.credentials = counters("credential_refreshes_total",
		"Attempts to get credentials for an upstream.", "upstream", "result")
}

func (m *Metrics) makeDaemonFamilies() {
	m.reloads = counters("config_reloads_total", "Reloads of the configuration.", "result")
	m.reloadOK = gauge("config_last_reload_successful", "Whether the last load of the configuration succeeded (1) or changed nothing (0).")
	m.reloadedWhen = gauge("config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded, as Unix time.")
}

// Registry returns the registry that holds all families, for collectors of other parts.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// InFlight adds delta to the number of clients' requests under way.
func (m *Metrics) InFlight(delta int) { m.inFlight.Add(float64(delta)) }

// Stale counts a tag that was answered from the cache although its upstream
// could not confirm it. cause is a kind of internal/fault, or "slow" when the
// upstream had not answered within waitFresh.
func (m *Metrics) Stale(upstream, cause string) {
	m.stale.WithLabelValues(m.names.of(upstream), causeOf(cause)).Inc()
}

// Credentials counts an attempt to get credentials for an upstream. result is
// "ok", "canceled" or a kind of internal/fault.
func (m *Metrics) Credentials(upstream, result string) {
	m.credentials.WithLabelValues(m.names.of(upstream), outcomeOf(result)).Inc()
}

// Reload counts a reload of the configuration; ok says whether it is in force.
// The load at the start is not a reload.
func (m *Metrics) Reload(ok bool) {
	if !ok {
		m.reloads.WithLabelValues("failed").Inc()
		m.reloadOK.Set(0)
		return
	}
	m.reloads.WithLabelValues("ok").Inc()
	m.reloadOK.Set(1)
	m.reloadedWhen.SetToCurrentTime()
}

// firstByteBuckets go from a hit in memory to Docker's patience with its ping
// (15 s) and containerd's with headers (30 s).
func firstByteBuckets() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30}
}

// durationBuckets go up to a large layer over a slow link.
func durationBuckets() []float64 {
	return []float64{.001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900}
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "1, with the version that runs and the Go version it was built with.",
		ConstLabels: prometheus.Labels{"version": strings.ToValidUTF8(version, "?"), "goversion": runtime.Version()},
	})
	g.Set(1)
	return g
}
