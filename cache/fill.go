package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// verifiedFirst is the size up to which content is verified before its first byte is served.
const verifiedFirst = 1 << 20

// errNoRoom ends a fill that the disk can't take; its readers are served straight through.
var errNoRoom = errors.New("cache: no room on disk")

// errHandedOver is errNoRoom for a fill that the next process goes on with.
var errHandedOver = fmt.Errorf("the folder is given up: %w", errNoRoom)

// phase is how far a fill has come.
type phase uint8

const (
	filling  phase = iota
	verified       // all bytes landed and match the digest; being committed
	failed         // err says why
)

// A fill brings one digest into the store. Its owner goroutine (run) starts
// and joins the workers and the hasher, and alone ends it; everybody else
// changes the state under mu and kicks the owner.
type fill struct {
	store  *Store
	digest v1.Hash
	kick   chan struct{} // holds one token: the owner should look again
	done   chan struct{} // closed when the fill has left the store's table
	file   *os.File      // the data, nil if it was here before the fill began
	info   os.FileInfo   // of the file

	mu        sync.Mutex // guards all below; leaf lock, no I/O under it
	phase     phase
	err       error // why it failed
	size      int64 // confirmed by a source, -1 until then
	hint      int64 // planned with until size is confirmed
	landed    spans // in the file
	taken     spans // landed or claimed by a request in flight
	sources   []*supply
	readers   []*Reader
	waiters   []*waiter
	ledger    *ledger
	active    int       // requests in flight
	writers   int       // of these, the ones whose answers are being written
	assumed   bool      // the size is an earlier fill's; no source has confirmed it to this one
	inherited bool      // the file is an earlier process's, whose readers may still have it open
	begun     bool      // an answer has claimed what it brings, whatever it was asked for
	bad       bool      // what landed is wrong and about to be discarded
	single    bool      // second attempt: one plain stream
	rest      bool      // somebody's answer depends on the whole blob
	rate      int64     // bytes a second that one connection brings
	first     Span      // what the first reader asked for, before the size is known
	lonely    time.Time // since when there is no reader
	asked     time.Time // when the latest request was planned

	slot     bool         // holds one of the store's background slots; the owner's alone
	reserved atomic.Int64 // bytes of the quota that the fill holds
}

// A waiter sleeps until the byte at pos is there, or the fill's state changes.
type waiter struct {
	pos  int64
	wake chan struct{} // holds one token
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func newFill(s *Store, d v1.Hash, ask Ask) *fill {
	f := &fill{
		store: s, digest: d, size: -1, hint: ask.Hint,
		kick: make(chan struct{}, 1), done: make(chan struct{}),
	}
	f.first = firstSpan(ask)
	return f
}

// firstSpan is what to ask a source for before the size is known; empty for an
// unknown place (a suffix without a hint).
func firstSpan(ask Ask) Span {
	switch {
	case ask.Off < 0 && ask.Hint > 0:
		return Span{max(0, ask.Hint+ask.Off), ask.Hint}
	case ask.Off < 0:
		return Span{}
	case ask.N < 0:
		return Span{ask.Off, ask.Off + 1<<62}
	default:
		return Span{ask.Off, ask.Off + ask.N}
	}
}

func (f *fill) wakeOwner() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// join adds a reader and its source. It returns errEnded if the reader has to
// look again once the fill is done, and ErrUnconfirmed if the bytes are somebody else's so far.
func (f *fill) join(r *Reader, src Source, ask Ask) (*supply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase == failed {
		return nil, errEnded
	}
	var own *supply
	for _, s := range f.sources {
		if s.Key() == src.Key() {
			own = s
		}
	}
	switch {
	case own == nil && !ask.Confirmed && len(f.sources) > 0:
		return nil, ErrUnconfirmed
	case own == nil:
		own = &supply{Source: src}
		f.sources = append(f.sources, own)
	case own.dead != nil: // a new reader is a new reason to ask
		own.dead, own.failures, own.retryAt, own.beyond = nil, 0, time.Time{}, 0
	}
	own.Source = src // with the credentials of today
	own.confirmed = own.confirmed || ask.Confirmed
	r.ask = ask
	if f.size >= 0 {
		r.begin(f.size)
	}
	f.readers = append(f.readers, r)
	f.store.count.following.Add(1)
	f.waiters = append(f.waiters, &r.waiter)
	f.wakeOwner()
	return own, nil
}

// leave takes a reader away. The fill goes on.
func (f *fill) leave(r *Reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers = remove(f.readers, r)
	f.lonely = time.Now()
	f.store.count.following.Add(-1)
	f.waiters = remove(f.waiters, &r.waiter)
	f.wakeOwner()
}

// park ends a fill that nobody reads; it reports whether it was one.
func (f *fill) park() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.readers) > 0 || f.phase != filling {
		return false
	}
	f.settle(failed, errParked)
	return true
}

// closeFiles lets go of the data and its record.
func (f *fill) closeFiles() {
	if f.file != nil {
		_ = f.file.Close()
		_ = f.ledger.file.Close()
	}
}

func remove[T comparable](s []T, x T) []T {
	for i := range s {
		if s[i] == x {
			s[i] = s[len(s)-1]
			var zero T
			s[len(s)-1] = zero
			return s[:len(s)-1]
		}
	}
	return s
}

// beginAll places the readers that came before the size was known. Those that have told their client
// another size can only be cut. Called with mu held.
func (f *fill) beginAll() {
	for _, r := range f.readers {
		if r.size >= 0 && r.size != f.size {
			r.cut = ErrDamaged
		}
		r.begin(f.size)
	}
}

// wakeAll tells every waiter that the state has changed. Called with mu held.
func (f *fill) wakeAll() {
	for _, w := range f.waiters {
		w.signal()
	}
}

// settle ends the fill's work, once. Called with mu held.
func (f *fill) settle(p phase, err error) {
	if f.phase != filling {
		return
	}
	f.phase, f.err = p, err
	f.wakeAll()
	f.wakeOwner()
}

func (f *fill) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle(failed, err)
}

// errFor is the error that a reader of source s hears of a failed fill. Called with mu held.
func (f *fill) errFor(s *supply) error {
	if s != nil && s.dead != nil && !errors.Is(f.err, errNoRoom) && !errors.Is(f.err, ErrDamaged) {
		return s.dead
	}
	return f.err
}

// run owns the fill: it returns when the content is committed, given up or parked.
func (f *fill) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer func() {
		cancel()
		workers.Wait()
		f.end()
	}()
	if !f.open() {
		return
	}
	workers.Go(func() { f.verify(ctx) })
	for {
		next := f.step()
		for _, r := range next.runs {
			workers.Go(func() { f.fetch(ctx, r) })
		}
		if next.over {
			return
		}
		if !f.sleep(ctx, next) {
			return
		}
	}
}

// sleep waits for a reason to take the next step; false means that the store closes.
func (f *fill) sleep(ctx context.Context, next step) bool {
	var timer <-chan time.Time
	if next.wait > 0 {
		t := time.NewTimer(next.wait)
		defer t.Stop()
		timer = t.C
	}
	var slot chan<- struct{}
	if next.idle {
		f.store.count.idle.Add(1)
		defer f.store.count.idle.Add(-1)
	}
	if next.wantSlot {
		slot = f.store.background
	}
	select {
	case <-ctx.Done():
		f.fail(ErrClosed)
		return false
	case <-f.kick:
	case <-timer:
	case slot <- struct{}{}:
		f.slot = true
	}
	if f.slot && f.hasReaders() {
		f.releaseSlot()
	}
	return true
}

func (f *fill) releaseSlot() {
	if f.slot {
		<-f.store.background
		f.slot = false
	}
}

func (f *fill) hasReaders() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.readers) > 0
}

// open makes the folder and the file, and takes up what an earlier fill has left.
func (f *fill) open() bool {
	if size, ok := f.store.files.blobSize(f.digest); ok { // committed while we were on our way
		f.reserved.Store(f.store.unpark(f.digest).bytes)
		f.store.discard(f.digest) // what an earlier fill has left is of no use any more
		f.mu.Lock()
		defer f.mu.Unlock()
		f.size = size
		f.settle(verified, nil)
		return false
	}
	file, ledger, err := f.store.files.openFill(f.digest)
	if err == nil {
		if f.info, err = file.Stat(); err != nil {
			err = errors.Join(err, file.Close(), ledger.file.Close())
		}
	}
	if err != nil {
		f.store.diskTrouble("start a fill", err)
		f.fail(errNoRoom)
		return false
	}
	left := f.store.unpark(f.digest)
	f.reserved.Store(left.bytes)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.file, f.ledger = file, ledger
	if ledger.size >= 0 {
		f.size, f.landed = ledger.size, ledger.spans()
		if left.size == ledger.size && left.landed != nil {
			f.landed = left.landed
		}
		f.taken, f.assumed = slices.Clone(f.landed), left.size != ledger.size
		f.inherited = f.assumed
		f.beginAll()
		f.wakeAll()
	}
	return true
}
