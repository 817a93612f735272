package cache

import (
	"errors"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// end puts the fill away: committed, kept for later, or discarded.
func (f *fill) end() {
	f.releaseSlot()
	f.mu.Lock()
	f.settle(failed, ErrClosed)
	out := outcome{phase: f.phase, err: f.err, size: f.size, landed: f.landed.total(), have: f.landed}
	out.confirmed = f.size >= 0 && !f.assumed
	for _, s := range f.sources {
		if s.suspect {
			out.suspects = append(out.suspects, s.Key())
		}
	}
	f.mu.Unlock()
	f.store.conclude(f, out)
}

// outcome is what a fill has come to, for the store to act upon.
type outcome struct {
	phase  phase
	err    error
	size   int64
	landed int64
	have   spans

	confirmed bool     // a source of this process has confirmed the size
	suspects  []string // sources that had a part in content that did not match
}

// conclude puts a fill away that has ended, on its owner's goroutine.
func (s *Store) conclude(f *fill, out outcome) {
	keep := int64(0) // bytes that stay counted
	switch {
	case f.file == nil: // nothing of ours on disk
	case out.phase == verified:
		s.keep(f.digest)
		fresh, err := s.files.commit(f.digest, f.file, out.size)
		if err != nil {
			s.diskTrouble("commit", err)
			s.discard(f.digest)
		}
		if fresh {
			keep = out.size
			s.count.blobs.Add(1)
			s.index.Put(f.digest, out.size)
		}
	case errors.Is(out.err, errHandedOver):
		keep = out.landed
	case errors.Is(out.err, ErrDamaged) || errors.Is(out.err, errNoRoom) || out.landed == 0:
		s.discard(f.digest)
	default:
		if err := s.files.syncFill(f.file, f.ledger); err != nil {
			s.diskTrouble("sync", err)
		}
		keep = out.landed
	}
	s.quota.used.Add(keep - f.reserved.Load())
	switch left := errors.Is(out.err, errParked) || errors.Is(out.err, errHandedOver) || errors.Is(out.err, ErrClosed); {
	case out.phase == verified && f.file != nil:
		s.count.completed.Add(1)
	case out.phase == failed && !left:
		s.count.failed.Add(1)
	}
	s.mu.Lock()
	switch {
	case errors.Is(out.err, ErrDamaged):
		s.markBad(f.digest, out.suspects)
	case errors.Is(out.err, errNoRoom):
		remember(s.tooLarge, f.digest, noRoomFor)
	}
	delete(s.fills, f.digest)
	if out.phase != verified && keep > 0 {
		p := parked{bytes: keep, size: -1}
		if out.confirmed && len(out.have) <= maxSpans {
			p.size, p.landed = out.size, out.have
		}
		s.parked[f.digest] = p
	}
	s.mu.Unlock()
	f.closeFiles()
	close(f.done)
}

// badKey is content as one source has it.
type badKey struct {
	digest v1.Hash
	source string
}

// markBad keeps sources that have content wrong from being asked for it again and again. Called with mu held.
func (s *Store) markBad(d v1.Hash, sources []string) {
	for _, key := range sources {
		remember(s.bad, badKey{d, key}, badFor)
	}
}

// remember sets a key for some time, and forgets those whose time is over.
func remember[K comparable](m map[K]time.Time, key K, d time.Duration) {
	now := time.Now()
	for k, until := range m {
		if now.After(until) {
			delete(m, k)
		}
	}
	m[key] = now.Add(d)
}

func (s *Store) discard(d v1.Hash) {
	if err := s.files.discardFill(d); err != nil {
		s.diskTrouble("discard a fill", err)
	}
}
