// Package cache is the content store: what it holds is named by its digest,
// fetched once, verified before it is kept, and served from files.
//
// The invariant: nothing under blobs/ is unverified, and the files are the
// truth; all that the index knows can be derived from them or be lost.
//
// A digest is absent, filling or here. A fill (fill.go) is a sparse file plus
// the set of intervals that have landed; it belongs to the store, never to the
// client that happened to ask first.
//
// Lock order: store before fill; no I/O and no index call under either.
//
// The package knows nothing of HTTP, registries or metrics: it takes bytes
// from a Source and hands them to an io.Writer.
package cache
