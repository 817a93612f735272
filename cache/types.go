package cache

import "github.com/entrepot/entrepot/cache/refs"

// Repo is one repository of one upstream, the unit in which content is shared.
type Repo = refs.Repo

// Tag is what a tag pointed to when it was last checked.
type Tag = refs.Tag

// State is what the store has of a digest.
type State uint8

// The states of a digest.
const (
	Absent State = iota
	Filling
	Here
)

// Stats is a snapshot of the store's gauges and counters, for metrics and status.
// Counters only grow while the store is open.
type Stats struct {
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
