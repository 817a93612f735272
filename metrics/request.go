package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type requestKey struct{ upstream, kind, result, class string }

// requestSeries are the series that one request of a client touches.
type requestSeries struct {
	requests, bytes     prometheus.Counter
	firstByte, duration prometheus.Observer
}

// Request counts a client's request that has ended. upstream is the configured
// name, "" where the request was refused before it had one; kind is blob,
// manifest, tags, referrers or ping; result is the answer's X-Cache, "" where it
// has none; status is 0 where no answer was begun; bytes are those of the body
// that were sent; firstByte is the time until the first of them, 0 or less if
// there was none; total is the time until the end.
func (m *Metrics) Request(upstream, kind, result string, status int, bytes int64, firstByte, total time.Duration) {
	key := requestKey{upstream, kind, result, classOf(status)}
	s, ok := m.served.get(key)
	if !ok {
		// Values outside the lists come this way each time: the table never holds them.
		s = m.resolveRequest(requestKey{m.names.of(upstream), kindOf(kind), resultOf(result), key.class})
	}
	s.requests.Inc()
	if bytes > 0 {
		s.bytes.Add(float64(bytes))
	}
	if firstByte > 0 {
		s.firstByte.Observe(firstByte.Seconds())
	}
	s.duration.Observe(total.Seconds())
}

func (m *Metrics) resolveRequest(k requestKey) requestSeries {
	return m.served.resolve(k, func() requestSeries {
		return requestSeries{
			requests:  m.requests.WithLabelValues(k.upstream, k.kind, k.result, k.class),
			bytes:     m.clientBytes.WithLabelValues(k.upstream, k.kind),
			firstByte: m.firstByte.WithLabelValues(k.kind, k.result),
			duration:  m.duration.WithLabelValues(k.kind, k.result),
		}
	})
}

type upstreamKey struct{ upstream, kind, result string }

// upstreamSeries are the series that one request to an upstream touches.
type upstreamSeries struct {
	requests, bytes prometheus.Counter
	duration        prometheus.Observer
}

// Upstream counts a request to an upstream that has ended. kind is blob,
// manifest, tags, referrers, token or ping; result is "ok", "canceled" or a kind
// of internal/fault; bytes are those of the body that were read; d is the time
// from the request to the end of the body.
func (m *Metrics) Upstream(upstream, kind, result string, bytes int64, d time.Duration) {
	s, ok := m.asked.get(upstreamKey{upstream, kind, result})
	if !ok {
		s = m.resolveUpstream(upstreamKey{m.names.of(upstream), kindOf(kind), outcomeOf(result)})
	}
	s.requests.Inc()
	if bytes > 0 {
		s.bytes.Add(float64(bytes))
	}
	s.duration.Observe(d.Seconds())
}

func (m *Metrics) resolveUpstream(k upstreamKey) upstreamSeries {
	return m.asked.resolve(k, func() upstreamSeries {
		return upstreamSeries{
			requests: m.upstreamRequests.WithLabelValues(k.upstream, k.kind, k.result),
			bytes:    m.upstreamBytes.WithLabelValues(k.upstream, k.kind),
			duration: m.upstreamDuration.WithLabelValues(k.upstream, k.kind),
		}
	})
}
