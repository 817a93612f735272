package index

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrClosed: the index is closed, or is being closed.
var ErrClosed = errors.New("index: closed")

// Options of an Index. The zero value is what the daemon uses, but for Log.
type Options struct {
	Log      *slog.Logger  // nil: silent
	Flush    time.Duration // how long a change may stay pending; 0: 5 s
	Snapshot time.Duration // how often a changed index is written to disk; 0: 10 min
	MaxLinks int           // beyond, links to digests that are not here are dropped; 0: 1,000,000
	// WriteFile replaces a file by what write writes, durably or not at all. nil: WriteFile of this package.
	WriteFile func(path string, write func(io.Writer) error) error
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Flush <= 0 {
		o.Flush = 5 * time.Second
	}
	if o.Snapshot <= 0 {
		o.Snapshot = 10 * time.Minute
	}
	if o.MaxLinks <= 0 {
		o.MaxLinks = 1_000_000
	}
	if o.WriteFile == nil {
		o.WriteFile = WriteFile
	}
	return o
}

// Index holds facts and links. Its methods may be called by many goroutines at
// once, from Open to Close and after; none of them waits for a disk, except those with a context.
//
// A repository is any string of up to 1024 bytes that names it, e.g.
// "docker.io/library/alpine". Digests are sha256 or sha512; others are ignored.
type Index struct {
	dir     string
	o       Options
	db      *badger.DB
	pending *pending
	stale   atomic.Int64  // reasons to rebuild; only Rebuild takes them away
	loaded  chan struct{} // closed when the snapshot is in, or there is none that can be
	asks    chan ask
	stop    <-chan struct{}    // closed when Close begins
	cancel  context.CancelFunc // closes stop, ends the owner's loop
	closing chan context.Context
	done    chan struct{} // closed when the owner has returned

	mu      sync.Mutex // guards closed, and readers against Add after Wait
	closed  bool
	readers sync.WaitGroup

	owner // state of the goroutine run
}

// owner is what only the goroutine that owns badger touches.
type owner struct {
	dirty    bool   // badger holds what the snapshot does not
	failing  bool   // the last snapshot could not be written
	sum      string // of the snapshot on disk, "" if it can't be relied on
	maxLinks int
}

// ask is a request to the owner to write what is pending to badger, and to disk.
type ask struct {
	toDisk bool
	reply  chan error // holds one
}

// Open returns at once with an empty index and loads what dir holds behind it.
// The error is badger's and has nothing to do with the disk: a dir that is
// missing, damaged or can't be written leads to an index that needs a rebuild.
// The index must be closed; until then one process at a time may use dir.
func Open(dir string, o Options) (*Index, error) {
	o = o.withDefaults()
	db, err := openBadger(o.Log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &Index{
		dir: dir, o: o, db: db, pending: newPending(), stop: ctx.Done(), cancel: cancel,
		loaded: make(chan struct{}), asks: make(chan ask), closing: make(chan context.Context, 1), done: make(chan struct{}),
		owner: owner{maxLinks: o.MaxLinks},
	}
	x.stale.Store(1) // until the snapshot says otherwise
	go x.run(ctx)
	return x, nil
}

// Loaded is closed once the snapshot has been read, or turned out to be of no
// use, or the index was closed. Before, facts and links may be missing.
func (x *Index) Loaded() <-chan struct{} { return x.loaded }

// NeedRebuild says whether rows may be missing or stale with respect to the
// files. It is to be asked after Loaded; Rebuild settles it.
func (x *Index) NeedRebuild() bool { return x.stale.Load() > 0 }

// Put records that a digest is on disk with this size, used now.
func (x *Index) Put(d v1.Hash, size int64) {
	x.change(d, factsChange{put: true, size: size, last: time.Now()})
}

// Touch records a use of a digest. A digest that was never Put stays unknown.
// It costs a map operation under a lock that few share. Uses of a digest that
// is Put soon after count.
func (x *Index) Touch(d v1.Hash) {
	x.change(d, factsChange{last: time.Now(), uses: 1})
}

// Delete records that a digest is no longer on disk. Its links stay: it may still be had.
func (x *Index) Delete(d v1.Hash) { x.change(d, factsChange{gone: true}) }

func (x *Index) change(d v1.Hash, c factsChange) {
	if known(d) {
		x.pending.changeFacts(d, c)
	}
}

// Facts returns what is known of a digest on disk.
func (x *Index) Facts(d v1.Hash) (Facts, bool) {
	c := x.pending.facts(d) // first: what is not pending any more is in badger
	f, ok := x.readFacts(d)
	return c.apply(f, ok)
}

func (x *Index) readFacts(d v1.Hash) (f Facts, ok bool) {
	key, valid := factsKey(d)
	if !valid {
		return Facts{}, false
	}
	err := x.view(func(tx *badger.Txn) error {
		f, ok = factsIn(tx, key)
		return nil
	})
	return f, ok && err == nil
}

func factsIn(tx *badger.Txn, key []byte) (f Facts, ok bool) {
	ok = get(tx, key, func(v []byte) (good bool) {
		f, good = decodeFacts(v)
		return good
	})
	return f, ok
}

// All goes through the facts of all digests, in no particular order. What
// changes meanwhile may be seen or not; a use that is being written may count
// twice. It ends early when the index is closed.
func (x *Index) All() iter.Seq2[v1.Hash, Facts] {
	return func(yield func(v1.Hash, Facts) bool) {
		changes := x.pending.allFacts()
		err := x.view(func(tx *badger.Txn) error {
			return scan(tx, []byte{factsRow}, func(k, v []byte) error {
				d, ok := parseFactsKey(k)
				f, good := decodeFacts(v)
				f, ok = changes[d].apply(f, ok && good)
				delete(changes, d)
				if x.isClosed() || ok && !yield(d, f) {
					return errStop
				}
				return nil
			})
		})
		if err != nil {
			return
		}
		for d, c := range changes {
			if f, ok := c.apply(Facts{}, false); ok && !yield(d, f) {
				return
			}
		}
	}
}

// Link records that a digest may be had through a repository. Kinds add up; a
// size of 0 leaves the one that is known.
func (x *Index) Link(repo string, l Link) {
	if len(repo) <= maxRepo && known(l.Digest) {
		x.pending.changeLink(repo, linkChange{put: true, link: l})
	}
}

// Unlink forgets that a digest may be had through a repository.
func (x *Index) Unlink(repo string, d v1.Hash) {
	if len(repo) <= maxRepo && known(d) {
		x.pending.changeLink(repo, linkChange{gone: true, link: Link{Digest: d}})
	}
}

// Linked returns the link of a digest to a repository, if there is one.
func (x *Index) Linked(repo string, d v1.Hash) (Link, bool) {
	c := x.pending.link(linkID{repo, d})
	var l Link
	ok := false
	if key, valid := linkKey(repo, d); valid {
		err := x.view(func(tx *badger.Txn) error {
			l, ok = linkIn(tx, key, d)
			return nil
		})
		ok = ok && err == nil
	}
	return c.apply(l, ok)
}

func linkIn(tx *badger.Txn, key []byte, d v1.Hash) (l Link, ok bool) {
	ok = get(tx, key, func(v []byte) (good bool) {
		l, good = decodeLink(d, v)
		return good
	})
	return l, ok
}

// Links returns all links of a repository, ordered by digest.
func (x *Index) Links(repo string) []Link {
	changes := x.pending.linksOf(repo)
	links := map[v1.Hash]Link{}
	if prefix, ok := linkPrefix(repo); ok {
		_ = x.view(func(tx *badger.Txn) error { // closed: nothing is known
			return scan(tx, prefix, func(k, v []byte) error {
				_, d, ok := parseLinkKey(k)
				if l, good := decodeLink(d, v); ok && good {
					links[d] = l
				}
				return nil
			})
		})
	}
	for d, c := range changes {
		l, ok := links[d]
		delete(links, d)
		if l, ok = c.apply(l, ok); ok {
			links[d] = l
		}
	}
	return slices.SortedFunc(maps.Values(links), func(a, b Link) int {
		return strings.Compare(a.Digest.String(), b.Digest.String())
	})
}

func (x *Index) isClosed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.closed
}
