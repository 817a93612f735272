// Package metrics holds the Prometheus families of the daemon and the handler
// that serves them.
//
// The invariant: no label takes a value from an unbounded set. Kinds, results,
// causes and status classes come from the fixed lists in labels.go, whatever a
// caller hands over; upstream is the name that the configuration gives, and
// after maxUpstreams different names further ones are counted as "other". There
// is never a label for a repository, a digest, a tag, a client or a host.
//
// The families are listed in testdata/families.golden and explained in
// docs/metrics.md; tests compare both with what a scrape shows.
//
// All methods of Metrics may be called by many goroutines at once. Request and
// Upstream allocate nothing once a combination of labels has been seen.
package metrics
