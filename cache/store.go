package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Errors of a Store. A source's own error is handed through (errors.As finds it).
var (
	// ErrUnconfirmed: the digest is here or on its way, but not through the
	// asker's source, and Ask.Confirmed was not set.
	ErrUnconfirmed = errors.New("cache: the digest is known, but not confirmed for this source")
	// ErrDamaged: every source sent bytes that do not match the digest.
	ErrDamaged = errors.New("cache: content does not match its digest")
	// ErrRange: the first byte asked for lies beyond the end of the blob.
	ErrRange = errors.New("cache: range beyond the end of the blob")
	// ErrClosed: the store is shutting down.
	ErrClosed = errors.New("cache: closed")
)

// A Source is where the bytes of a digest may be had: one repository of one upstream.
// Its methods may be called by many goroutines at once.
type Source interface {
	// Key names the upstream and the repository; equal keys mean the same source.
	Key() string
	// Get makes one attempt to open n bytes of d from offset off; n < 0 means to the
	// end, and with off 0 no range is asked for at all. It returns when the
	// source has answered with headers. Errors that are not a *SourceError are tried again.
	Get(ctx context.Context, d v1.Hash, off, n int64) (Part, error)
}

// A Part is a source's good answer. What it holds may start elsewhere than was
// asked for (a source without ranges starts at 0): the fill decides what to do.
type Part struct {
	Body  io.ReadCloser // fails by itself when no byte comes for the stall timeout
	Off   int64         // offset of the first byte of Body
	Len   int64         // bytes in Body, -1 if the source does not say
	Total int64         // size of the blob, -1 if the source does not say
}

// SourceError tells a fill how to go on after a source failed.
type SourceError struct {
	Err        error
	Final      bool          // asking this source again is of no use: not there, not allowed
	BeyondEnd  bool          // the range asked for starts beyond the end of the blob (HTTP 416)
	Throttled  bool          // the source asks for less: go down to one request at a time
	RetryAfter time.Duration // wait at least so long before asking again
}

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// Options of a Store. All sizes are bytes.
type Options struct {
	Dir         string
	Size        func(total int64) int64 // most bytes kept, given the size of the file system; nil: no limit
	MinFree     func(total int64) int64 // bytes of the file system always left free, likewise
	MaxBlobSize int64                   // larger blobs are passed through; 0: no limit
	OnDemand    bool                    // fetch only what is read (fill: onDemand)
	Parallel    int                     // requests at once for one large blob; default 4
	PieceSize   int64                   // bytes of the smallest range asked for; default 8 MiB
	Background  int                     // fills without readers that may run at once; default 4
	Patience    time.Duration           // how long a source may fail without a byte landing; default 10 s
	Log         *slog.Logger            // default: none
}

// Ask says what a reader wants of a blob, before its size is known.
type Ask struct {
	// Hint is the size that a manifest of the asker's repository gives, 0 if none. It plans the first request only.
	Hint int64
	// Off and N are the first range that will be read. Off < 0 means the last
	// -Off bytes (N is then ignored), N < 0 means to the end.
	Off, N int64
	// Confirmed says that the asker's right to the digest through its source is
	// known (a link). If it is not set, only the source's own answer confirms it.
	Confirmed bool
}

// Origin says where a reader's bytes come from.
type Origin uint8

const (
	Hit     Origin = iota // whole and verified on disk
	Joined                // a fill that was under way
	Started               // a fill that this reader started, or straight from its source
)

const (
	badFor     = time.Minute // how long a digest that no source has right is not asked for
	copyBuffer = 128 << 10
	backlog    = 64 // abandoned fills that wait for a background slot; more are parked
)

// A Store keeps content in a folder, which it holds a lock on while it is open. Its methods
// may be called by many goroutines at once.
type Store struct {
	opt        Options
	log        *slog.Logger
	files      files
	lock       *os.File
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
	parked   map[v1.Hash]int64 // fills at rest, with the bytes they are counted with
	bad      map[v1.Hash]time.Time
	detached bool // the folder is given up: new content is passed through
}

// counters of a store; each only grows.
type counters struct {
	landed, completed, failed, mismatches    atomic.Int64
	evicted, evictedBytes                    atomic.Int64
	through, throughBytes, noRanges, resumed atomic.Int64
	blobs, waiting, idle                     atomic.Int64 // gauges
}

// Open opens the store in o.Dir, which is made if it is missing. It fails if another
// process has it open. Content is served at once; what has to be counted
// or rebuilt is, in the background.
func Open(o Options) (*Store, error) {
	o = withDefaults(o)
	s := &Store{
		opt: o, log: o.Log,
		files:      files{root: o.Dir, boot: bootID()},
		background: make(chan struct{}, o.Background),
		fills:      make(map[v1.Hash]*fill),
		parked:     make(map[v1.Hash]int64),
		bad:        make(map[v1.Hash]time.Time),
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
	if err := s.files.walkFills(func(d v1.Hash, taken int64) {
		s.parked[d] = taken
		s.quota.used.Add(taken)
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("cache folder %s: %w", o.Dir, err), lock.Close())
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.owners.Go(s.survey)
	return s, nil
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
	if o.Background <= 0 {
		o.Background = 4
	}
	if o.Patience <= 0 {
		o.Patience = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// survey counts what the folder holds.
func (s *Store) survey() {
	err := s.files.walkBlobs(func(_ v1.Hash, info fs.FileInfo) {
		s.count.blobs.Add(1)
		s.quota.used.Add(info.Size())
	})
	if err != nil {
		s.diskTrouble("survey", err)
	}
}

// Blob returns a reader of d. What is absent is fetched from src, or with the
// others who want it. It returns as soon as the size is known, or a stream without size
// has begun; content up to 1 MiB is waited for until it is verified, for some seconds.
// The errors are the source's own, ErrUnconfirmed, ErrDamaged, or ctx's.
func (s *Store) Blob(ctx context.Context, d v1.Hash, src Source, ask Ask) (*Reader, error) {
	if !validDigest(d) {
		return nil, fmt.Errorf("cache: %q is no digest", d.String())
	}
	opening, cancel := context.WithTimeout(ctx, s.opt.Patience)
	defer cancel()
	for {
		r := &Reader{ctx: ctx, store: s, digest: d, src: src, waiter: waiter{wake: make(chan struct{}, 1)}}
		if found, err := s.hit(r, ask); found || err != nil {
			return r, err
		}
		f, err := s.join(r, ask)
		switch {
		case errors.Is(err, errEnded):
			select {
			case <-f.done:
				continue
			case <-opening.Done():
				return nil, opening.Err()
			}
		case errors.Is(err, errNoRoom):
			return s.direct(ctx, r)
		case err != nil:
			return nil, err
		}
		return s.follow(opening, r)
	}
}

// hit opens verified content.
func (s *Store) hit(r *Reader, ask Ask) (bool, error) {
	file, size, err := s.files.openBlob(r.digest)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.diskTrouble("open a blob", err)
		}
		return false, nil
	}
	if !ask.Confirmed {
		return false, errors.Join(ErrUnconfirmed, file.Close())
	}
	r.file, r.size, r.origin = file, size, Hit
	s.inUse.add(r.digest)
	return true, nil
}

// join adds the reader to the digest's fill, and starts one if there is none.
func (s *Store) join(r *Reader, ask Ask) (*fill, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until, ok := s.bad[r.digest]; ok && time.Now().Before(until) {
		return nil, ErrDamaged
	}
	f := s.fills[r.digest]
	r.origin = Joined
	if f == nil {
		if s.detached {
			return nil, errNoRoom
		}
		f = newFill(s, r.digest, ask)
		r.origin = Started
	}
	own, err := f.join(r, r.src, ask)
	if err != nil {
		return f, err
	}
	r.fill, r.own = f, own
	if s.fills[r.digest] == nil {
		s.fills[r.digest] = f
		s.owners.Go(func() { f.run(s.ctx) })
	}
	return f, nil
}

// follow readies a reader that has joined a fill.
func (s *Store) follow(opening context.Context, r *Reader) (*Reader, error) {
	grace := time.NewTimer(s.opt.Patience / 2)
	defer grace.Stop()
	s.count.waiting.Add(1)
	defer s.count.waiting.Add(-1)
	err := r.opened(opening, grace.C)
	if err == nil {
		err = r.openFile()
	}
	if err == nil {
		return r, nil
	}
	r.fill.leave(r)
	if errors.Is(err, errNoRoom) {
		return s.direct(r.ctx, r)
	}
	return nil, err
}

// State says what the store has of d, and its size where that is known (else -1).
func (s *Store) State(d v1.Hash) (int64, State) {
	if !validDigest(d) {
		return -1, Absent
	}
	if size, ok := s.files.blobSize(d); ok {
		return size, Here
	}
	s.mu.Lock()
	f := s.fills[d]
	s.mu.Unlock()
	if f == nil {
		return -1, Absent
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase == failed {
		return -1, Absent
	}
	if f.assumed {
		return -1, Filling
	}
	return f.size, Filling
}

// conclude puts a fill away that has ended, on its owner's goroutine.
func (s *Store) conclude(f *fill, out outcome) {
	keep := int64(0) // bytes that stay counted
	switch {
	case f.file == nil || out.orphan: // nothing of ours on disk
	case out.phase == verified:
		if err := s.files.commit(f.digest, f.file); err != nil {
			s.diskTrouble("commit", err)
			s.discard(f.digest)
			break
		}
		keep = out.size
		s.count.blobs.Add(1)
		s.committed(f.digest, out.size)
	case errors.Is(out.err, ErrDamaged) || errors.Is(out.err, errNoRoom) || out.landed == 0:
		s.discard(f.digest)
	default:
		if err := f.ledger.sync(f.file); err != nil {
			s.diskTrouble("sync", err)
		}
		keep = out.landed
	}
	s.quota.used.Add(keep - f.reserved.Load())
	if out.phase == verified && f.file != nil {
		s.count.completed.Add(1)
	} else if out.phase == failed && !errors.Is(out.err, errParked) && !errors.Is(out.err, ErrClosed) {
		s.count.failed.Add(1)
	}
	if errors.Is(out.err, ErrDamaged) {
		s.markBad(f.digest)
	}
	s.mu.Lock()
	delete(s.fills, f.digest)
	if out.phase != verified && keep > 0 {
		s.parked[f.digest] = keep
	}
	s.mu.Unlock()
	f.closeFiles()
	close(f.done)
}

func (s *Store) discard(d v1.Hash) {
	if err := s.files.discardFill(d); err != nil {
		s.diskTrouble("discard a fill", err)
	}
}

// unpark takes the bytes that a fill at rest is counted with.
func (s *Store) unpark(d v1.Hash) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.parked[d]
	delete(s.parked, d)
	return n
}

func (s *Store) backlogFull() bool {
	return len(s.background) == cap(s.background) && s.count.idle.Load() > backlog
}

// diskTrouble reports a failing disk. Pulls go on without it.
func (s *Store) diskTrouble(doing string, err error) {
	s.log.Warn("the cache's disk failed; pulls go on past it", "doing", doing, "dir", s.opt.Dir, "err", err)
}

// Detach gives the folder up so that another process can open it: fills without readers
// are parked at once; the others may end until ctx does, and then go on for
// their readers alone. Content that is asked for afterwards is passed through.
func (s *Store) Detach(ctx context.Context) error {
	s.mu.Lock()
	s.detached = true
	var running []*fill
	for _, f := range s.fills {
		if f.park() {
			running = append(running, f)
		}
	}
	s.mu.Unlock()
	for _, f := range running {
		select {
		case <-f.done:
		case <-ctx.Done():
			f.makeOrphan()
		}
	}
	return s.lock.Close()
}

// Close ends all fills, keeping what has landed, and gives the folder up.
func (s *Store) Close(ctx context.Context) error {
	s.cancel()
	s.owners.Wait()
	return s.Detach(ctx)
}
