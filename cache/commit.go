package cache

import (
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// conclude puts a fill away that has ended, on its owner's goroutine.
func (s *Store) conclude(f *fill, out outcome) {
	keep := int64(0) // bytes that stay counted
	switch {
	case f.file == nil || out.orphan: // nothing of ours on disk
	case out.phase == verified:
		s.keep(f.digest)
		fresh, err := s.files.commit(f.digest, f.file)
		if err != nil {
			s.diskTrouble("commit", err)
			s.discard(f.digest)
		}
		if fresh {
			keep = out.size
			s.count.blobs.Add(1)
			s.index.Put(f.digest, out.size)
		}
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
