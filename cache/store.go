package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/evict"
	"github.com/entrepot/entrepot/cache/index"
	"github.com/entrepot/entrepot/cache/refs"
)

// Errors of a Store. A source's own error is handed through (errors.As finds it).
var (
	// ErrUnconfirmed: the digest is here or on its way, but not through the
	// asker's source, and Ask.Confirmed was not set.
	ErrUnconfirmed = errors.New("cache: the digest is known, but not confirmed for this source")
	// ErrDamaged: every source sent bytes that do not match the digest.
	ErrDamaged = errors.New("cache: content does not match its digest")
	// ErrClosed: the store is shutting down.
	ErrClosed = errors.New("cache: closed")
)

// Options of a Store. All sizes are bytes.
type Options struct {
	Dir         string
	Size        func(total int64) int64 // most bytes kept, given the size of the file system; nil: no limit
	MinFree     func(total int64) int64 // bytes of the file system always left free, likewise
	MaxBlobSize int64                   // larger blobs are passed through; 0: no limit
	OnDemand    bool                    // fetch only what is read (fill: onDemand)
	Parallel    int                     // requests at once for one large blob; default 4
	PieceSize   int64                   // bytes of the smallest range asked for; default 8 MiB
	Background  int                     // fills without readers that may run at once; default 4, < 0: none
	Patience    time.Duration           // how long a source may fail without a byte landing; default 10 s
	Log         *slog.Logger            // default: none
}

const (
	badFor     = time.Minute // how long a source is not asked for what it has sent wrong twice
	noRoomFor  = time.Minute // how long what found no room is passed straight through
	maxSpans   = 1024        // runs of landed bytes that are remembered of a fill at rest
	copyBuffer = 128 << 10   // of a request, and of the hasher
	backlog    = 64          // abandoned fills that wait for a background slot; more are parked

	manifestWriters = 16          // manifests that are written to the disk at once
	indexTime       = time.Second // kept of Detach's time for the index
)

// A Store keeps content in a folder, which it holds a lock on while it is open. Its methods
// may be called by many goroutines at once.
type Store struct {
	opt        Options
	log        *slog.Logger
	files      files
	lock       *os.File
	refs       *refs.Dir
	index      *index.Index
	shelf      *shelf
	policy     evict.Policy
	writers    chan struct{} // slots for manifests on their way to the disk
	writing    sync.WaitGroup
	counted    chan struct{} // closed when all that was here at the start is counted
	gone       atomic.Bool   // the index is closed
	buffers    sync.Pool
	background chan struct{} // slots for fills without readers
	count      counters
	quota      quota
	inUse      useTable
	ctx        context.Context // ends the fills
	cancel     context.CancelFunc
	owners     sync.WaitGroup

	mu       sync.Mutex // guards all below; taken before a fill's
	fills    map[v1.Hash]*fill
	parked   map[v1.Hash]parked    // fills at rest
	bad      map[badKey]time.Time  // content that a source has sent wrong, until when it is not asked for it
	tooLarge map[v1.Hash]time.Time // content that found no room, until when it is passed straight through
	fresh    map[v1.Hash]struct{}  // kept while the survey counts; nil when it has
	detached bool                  // the folder is given up: new content is passed through
}

// counters of a store; each only grows.
type counters struct {
	landed, completed, failed, mismatches    atomic.Int64
	evicted, evictedBytes                    atomic.Int64
	through, throughBytes, noRanges, resumed atomic.Int64
	diskErrors                               atomic.Int64
	blobs, following, idle                   atomic.Int64 // gauges
}

// Open opens the store in o.Dir, which is made if it is missing. It fails if another
// process has it open. Content is served at once; what has to be counted
// or rebuilt is, in the background.
func Open(o Options) (*Store, error) {
	o = withDefaults(o)
	s := &Store{
		opt: o, log: o.Log,
		files:      files{root: o.Dir, boot: bootID(), folder: new(folder)},
		background: make(chan struct{}, o.Background),
		fills:      make(map[v1.Hash]*fill),
		parked:     make(map[v1.Hash]parked),
		bad:        make(map[badKey]time.Time),
		tooLarge:   make(map[v1.Hash]time.Time),
		fresh:      make(map[v1.Hash]struct{}),
		counted:    make(chan struct{}),
		writers:    make(chan struct{}, manifestWriters),
		policy:     evict.LRU{},
		shelf:      newShelf(),
	}
	s.buffers.New = func() any { b := make([]byte, copyBuffer); return &b }
	if err := s.files.layout(); err != nil {
		return nil, fmt.Errorf("cache folder %s: %w", o.Dir, err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s.lock = lock
	total, _, err := diskSpace(o.Dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache folder %s: %w", o.Dir, err), lock.Close())
	}
	s.quota.limit, s.quota.minFree = o.Size(total), o.MinFree(total)
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("cache folder %s: %w", o.Dir, err), lock.Close())
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.owners.Go(s.survey)
	return s, nil
}

// load takes up what an earlier store has left.
func (s *Store) load() (err error) {
	err = s.files.walkFills(func(d v1.Hash, taken int64) {
		s.parked[d] = parked{bytes: taken, size: -1}
		s.quota.used.Add(taken)
	})
	if err != nil {
		return err
	}
	if s.refs, err = refs.Open(s.files.refs()); err != nil {
		s.refTrouble("open", err) // what is there can be read all the same
	}
	s.index, err = index.Open(s.files.index(), index.Options{Log: s.log})
	return err
}

func withDefaults(o Options) Options {
	none := func(int64) int64 { return 0 }
	if o.Size == nil {
		o.Size = func(int64) int64 { return 1<<63 - 1 }
	}
	if o.MinFree == nil {
		o.MinFree = none
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.PieceSize <= 0 {
		o.PieceSize = 8 << 20
	}
	if o.Background == 0 {
		o.Background = 4
	}
	o.Background = max(0, o.Background)
	if o.Patience <= 0 {
		o.Patience = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// parked is what is known of a fill at rest.
type parked struct {
	bytes int64 // that it is counted with
	size  int64 // that a source has confirmed in this process, -1 if none has
	// What has landed, if this process knows: finer than what is recorded. Nil where it does not.
	landed spans
}

// unpark takes what is known of a fill at rest.
func (s *Store) unpark(d v1.Hash) parked {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.parked[d]
	if !ok {
		return parked{size: -1}
	}
	delete(s.parked, d)
	return p
}

// backlogFull: so many fills without readers wait that this one is better parked.
func (s *Store) backlogFull() bool {
	return cap(s.background) == 0 || len(s.background) == cap(s.background) && s.count.idle.Load() > backlog
}

// diskTrouble reports a failing disk. Pulls go on without it.
func (s *Store) diskTrouble(doing string, err error) {
	s.count.diskErrors.Add(1)
	s.log.Warn("the cache's disk failed; pulls go on past it", "doing", doing, "dir", s.opt.Dir, "err", err)
}

// Detach gives the folder up so that another process can open it: fills without readers
// are parked at once; the others may end until shortly before ctx does. Then they are left to the
// next process as far as they have come, and their readers go on past the disk. Content
// that is asked for afterwards is passed through. The folder is given up even if there is an error.
func (s *Store) Detach(ctx context.Context) error {
	s.mu.Lock()
	if s.detached {
		s.mu.Unlock()
		return nil
	}
	s.detached = true
	var all []*fill
	for _, f := range s.fills {
		f.park()
		all = append(all, f)
	}
	s.mu.Unlock()
	fills, cancel := earlier(ctx, 2*indexTime)
	defer cancel()
	if !ended(fills, all) {
		for _, f := range all {
			f.fail(errHandedOver)
		}
		rest, cancel := earlier(ctx, indexTime)
		defer cancel()
		ended(rest, all) // their requests are cut; what may last is a sync
	}
	written := make(chan struct{})
	go func() { s.writing.Wait(); close(written) }()
	select {
	case <-written:
	case <-ctx.Done():
	}
	s.files.folder.release()
	s.gone.Store(true)
	err := s.index.Close(ctx)
	if err != nil { // it gives its snapshot up; the folder is ours until it has
		late, cancel := context.WithTimeout(context.Background(), indexTime)
		defer cancel()
		err = errors.Join(err, s.index.Close(late))
	}
	return errors.Join(err, s.lock.Close())
}

// ended waits until all fills have, or ctx has.
func ended(ctx context.Context, all []*fill) bool {
	for _, f := range all {
		select {
		case <-f.done:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// earlier returns a context that ends d before ctx does.
func earlier(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if end, ok := ctx.Deadline(); ok {
		return context.WithDeadline(ctx, end.Add(-d))
	}
	return context.WithCancel(ctx)
}

// Close ends all fills, keeping what has landed, and gives the folder up.
func (s *Store) Close(ctx context.Context) error {
	s.cancel()
	s.owners.Wait()
	return s.Detach(ctx)
}
