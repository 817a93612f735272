package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// CacheStats is what the store says of itself. Its fields are those of
// cache.Stats in the same order, so that one converts into the other and this
// package needs not know the store. Counters only grow while the store is open.
type CacheStats struct {
	BytesHeld, BytesAllowed int64 // on disk, fills included; the cap in force
	Blobs                   int64 // verified files, manifests included
	Fills, Background       int64 // running; of these, without a reader
	Waiters                 int64 // readers of fills
	Landed                  int64 // counter: bytes taken from sources
	Completed, Failed       int64 // counters: fills ended by a digest match, or without
	Mismatches              int64 // counter: fills whose bytes did not match
	Evicted, EvictedBytes   int64 // counters
	Through, ThroughBytes   int64 // counters: responses passed by the disk, and their bytes
	NoRanges                int64 // counter: sources found to ignore ranges
	Resumed                 int64 // counter: requests that went on where one broke
	DiskErrors              int64 // counter: failures of the disk
	IndexLoaded             bool  // the index knows all links and facts
}

// Cache says where the numbers of the store come from; fn is called once a
// scrape, by one goroutine or several, and must not block. Until Cache is called
// the families entrepot_cache_* are not there. A later call replaces fn.
func (m *Metrics) Cache(fn func() CacheStats) { m.cache.Store(&fn) }

type cacheFamily struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*CacheStats) int64
}

// cacheCollector asks the store at scrape time: one consistent snapshot, and no
// work for the store in between.
type cacheCollector struct {
	source   *atomic.Pointer[func() CacheStats]
	families []cacheFamily
}

func newCacheCollector(source *atomic.Pointer[func() CacheStats]) *cacheCollector {
	c := &cacheCollector{source: source}
	add := func(kind prometheus.ValueType, name, help string, value func(*CacheStats) int64) {
		desc := prometheus.NewDesc(prometheus.BuildFQName(namespace, "cache", name), help, nil, nil)
		c.families = append(c.families, cacheFamily{desc, kind, value})
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	add(gauge, "held_bytes", "Bytes on disk, fills included.", func(s *CacheStats) int64 { return s.BytesHeld })
	add(gauge, "allowed_bytes", "Bytes that may be held at present.", func(s *CacheStats) int64 { return s.BytesAllowed })
	add(gauge, "blobs", "Verified files held, manifests included.", func(s *CacheStats) int64 { return s.Blobs })
	add(gauge, "fills", "Fills running.", func(s *CacheStats) int64 { return s.Fills })
	add(gauge, "background_fills", "Fills running that nobody reads.", func(s *CacheStats) int64 { return s.Background })
	add(gauge, "waiters", "Answers that are read from fills.", func(s *CacheStats) int64 { return s.Waiters })
	add(gauge, "index_loaded", "Whether the index is complete (1) or being rebuilt from the files (0).", func(s *CacheStats) int64 {
		if s.IndexLoaded {
			return 1
		}
		return 0
	})
	add(counter, "landed_bytes_total", "Bytes that fills took from their sources.", func(s *CacheStats) int64 { return s.Landed })
	add(counter, "fills_completed_total", "Fills that ended with the right digest.", func(s *CacheStats) int64 { return s.Completed })
	add(counter, "fills_failed_total", "Fills that ended without the right digest.", func(s *CacheStats) int64 { return s.Failed })
	add(counter, "mismatches_total", "Fills whose bytes did not match the digest.", func(s *CacheStats) int64 { return s.Mismatches })
	add(counter, "evicted_total", "Files deleted to make room.", func(s *CacheStats) int64 { return s.Evicted })
	add(counter, "evicted_bytes_total", "Bytes deleted to make room.", func(s *CacheStats) int64 { return s.EvictedBytes })
	add(counter, "through_total", "Answers passed by the disk, which could not take them.", func(s *CacheStats) int64 { return s.Through })
	add(counter, "through_bytes_total", "Bytes of answers passed by the disk.", func(s *CacheStats) int64 { return s.ThroughBytes })
	add(counter, "no_ranges_total", "Sources found to ignore ranges, which costs bytes.", func(s *CacheStats) int64 { return s.NoRanges })
	add(counter, "resumed_total", "Requests that went on where one before broke off.", func(s *CacheStats) int64 { return s.Resumed })
	add(counter, "disk_errors_total", "Failures of the cache's disk. Pulls went on past it.", func(s *CacheStats) int64 { return s.DiskErrors })
	return c
}

// Describe implements prometheus.Collector.
func (c *cacheCollector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range c.families {
		out <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c *cacheCollector) Collect(out chan<- prometheus.Metric) {
	fn := c.source.Load()
	if fn == nil {
		return
	}
	stats := (*fn)()
	for _, f := range c.families {
		out <- prometheus.MustNewConstMetric(f.desc, f.kind, float64(f.value(&stats)))
	}
}
