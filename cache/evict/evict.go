// Package evict decides what has to go when the store is full.
//
// The invariant: a policy is a pure function of what it is given. It opens,
// deletes and remembers nothing, so the same rows give the same victims, and
// policies can be compared on one recorded trace.
package evict

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Class sets content apart that a policy must treat differently.
type Class uint8

const (
	Ordinary Class = iota
	Pinned         // an operator wants it kept: never a victim
)

// Row is what a policy knows of one digest in the store.
type Row struct {
	Digest  v1.Hash
	Size    int64 // bytes on disk
	LastUse time.Time
	Uses    int64
	Class   Class
}

// A Policy picks what to delete.
type Policy interface {
	// Victims returns rows whose sizes add up to at least free bytes, first to
	// go first, and no more of them than it takes; all that may go if that is
	// less. A row for which busy is true (open, or being filled) is never
	// among them. Rows hold every digest once; they are read once, in any order.
	Victims(rows iter.Seq[Row], free int64, busy func(v1.Hash) bool) []Row
}

// LRU takes what was used longest ago. Its memory follows the number of victims, not of rows.
type LRU struct{}

var _ Policy = LRU{}

// Victims implements Policy. Of rows used at the same time the larger goes first.
func (LRU) Victims(rows iter.Seq[Row], free int64, busy func(v1.Hash) bool) []Row {
	if free <= 0 {
		return nil
	}
	// The heap holds the least recently used rows seen so far that are enough,
	// the latest used of them on top: it falls out when the others suffice without it.
	var h newestFirst
	var sum int64
	for r := range rows {
		if r.Class == Pinned || sum >= free && compare(r, h[0]) > 0 || busy(r.Digest) {
			continue
		}
		heap.Push(&h, r)
		for sum += bytes(r); sum-bytes(h[0]) >= free; {
			sum -= bytes(heap.Pop(&h).(Row))
		}
	}
	slices.SortFunc(h, compare)
	return h
}

func bytes(r Row) int64 { return max(0, r.Size) }

// compare orders rows: first to go first.
func compare(a, b Row) int {
	return cmp.Or(
		a.LastUse.Compare(b.LastUse),
		cmp.Compare(b.Size, a.Size),
		strings.Compare(a.Digest.Algorithm, b.Digest.Algorithm),
		strings.Compare(a.Digest.Hex, b.Digest.Hex),
	)
}

// newestFirst is a heap with the last to go on top.
type newestFirst []Row

func (h newestFirst) Len() int           { return len(h) }
func (h newestFirst) Less(i, j int) bool { return compare(h[i], h[j]) > 0 }
func (h newestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *newestFirst) Push(x any)        { *h = append(*h, x.(Row)) }
func (h *newestFirst) Pop() any {
	old := *h
	r := old[len(old)-1]
	*h = old[:len(old)-1]
	return r
}
