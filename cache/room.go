package cache

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/evict"
)

// slack is what an eviction frees beyond what was asked for, as a share of the
// limit: so that not every piece of a fill begins one.
const slack = 50

// parkTime is how long an eviction waits for the fills that it has ended.
const parkTime = 500 * time.Millisecond

// makeRoom deletes until n more bytes fit; false if they can't be made to.
func (s *Store) makeRoom(n int64) bool {
	if !s.isCounted() {
		return false // what could go is not known yet: what comes now is passed through
	}
	if !s.fits(n) {
		s.parkIdle()
	}
	s.quota.evicting.Lock()
	defer s.quota.evicting.Unlock()
	if s.fits(n) { // somebody else has just made room
		return true
	}
	if n > s.quota.limit {
		return false
	}
	s.dropParked(n)
	if s.fits(n) {
		return true
	}
	for _, v := range s.policy.Victims(s.rows(), s.lacking(n)+s.quota.limit/slack, s.busy) {
		if s.busy(v.Digest) { // since it was chosen
			continue
		}
		s.drop(v.Digest, v.Size)
		s.count.evicted.Add(1)
		s.count.evictedBytes.Add(v.Size)
	}
	return s.fits(n)
}

// lacking is how many bytes have to go for n more to fit.
func (s *Store) lacking(n int64) int64 {
	need := s.quota.used.Load() + n - s.quota.limit
	if _, free, err := diskSpace(s.opt.Dir); err == nil {
		need = max(need, s.quota.minFree+n-free)
	}
	return max(0, need)
}

// dropParked removes fills at rest until n more bytes fit: nobody waits for them.
func (s *Store) dropParked(n int64) {
	s.mu.Lock()
	var parked []v1.Hash
	for d := range s.parked {
		parked = append(parked, d)
	}
	s.mu.Unlock()
	for _, d := range parked {
		if s.fits(n) {
			return
		}
		if taken, over := s.takeParked(d); over != nil {
			s.discard(d)
			s.quota.used.Add(-taken)
			over()
		}
	}
}

// parkIdle ends the fills that nobody reads: background work goes before content.
func (s *Store) parkIdle() {
	s.mu.Lock()
	var parked []*fill
	for _, f := range s.fills {
		if f.park() {
			parked = append(parked, f)
		}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.ctx, parkTime)
	defer cancel()
	ended(ctx, parked)
}

func (s *Store) isCounted() bool {
	select {
	case <-s.counted:
		return true
	default:
		return false
	}
}

// takeParked claims a fill at rest for removal: until over is called, whoever
// wants the digest waits as for a fill that has ended. over is nil if it rests no more.
func (s *Store) takeParked(d v1.Hash) (taken int64, over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.parked[d]
	if !ok || s.fills[d] != nil || s.detached {
		return 0, nil
	}
	f := newFill(s, d, Ask{})
	f.phase, f.err = failed, errEnded
	s.fills[d] = f
	delete(s.parked, d)
	return p.bytes, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.fills, d)
		close(f.done)
	}
}

// rows are the digests that an eviction may choose from.
func (s *Store) rows() iter.Seq[evict.Row] {
	return func(yield func(evict.Row) bool) {
		for d, f := range s.index.All() {
			if !yield(evict.Row{Digest: d, Size: f.Size, LastUse: f.LastUse, Uses: f.Uses}) {
				return
			}
		}
	}
}

// busy: somebody reads it or brings it in.
func (s *Store) busy(d v1.Hash) bool {
	if s.inUse.has(d) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fills[d] != nil
}

// drop deletes content. Links to it stay: they say who may have it, not that it is here.
func (s *Store) drop(d v1.Hash, size int64) {
	s.index.Delete(d) // first: what comes anew in between records itself again
	err := s.files.folder.change(func() error { return os.Remove(s.files.blobPath(d)) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.index.Put(d, size)
		s.diskTrouble("delete", err)
		return
	}
	if err == nil {
		s.quota.used.Add(-size)
		s.count.blobs.Add(-1)
	}
}
