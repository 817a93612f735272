package cache

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/index"
)

// survey counts what the folder holds and brings the index in line with it,
// behind the serving of content.
func (s *Store) survey() {
	defer s.ready()
	err := s.files.walkBlobs(func(d v1.Hash, info fs.FileInfo) bool {
		if !s.isFresh(d) {
			s.count.blobs.Add(1)
			s.quota.used.Add(info.Size())
		}
		return s.ctx.Err() == nil
	})
	if err != nil {
		s.diskTrouble("count what is there", err)
	}
	s.ready()
	s.rebuildIndex()
	s.makeRoom(0)
}

// ready says that all content is counted, once.
func (s *Store) ready() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh != nil {
		s.fresh = nil
		close(s.counted)
	}
}

// keep counts content that is about to get its name, whether a survey is under way or not.
func (s *Store) keep(d v1.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh != nil {
		s.fresh[d] = struct{}{}
	}
}

func (s *Store) isFresh(d v1.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.fresh[d]
	return ok
}

// rebuildIndex derives the index from the files if it was lost or not closed.
func (s *Store) rebuildIndex() {
	select {
	case <-s.index.Loaded():
	case <-s.ctx.Done():
		return
	}
	if !s.index.NeedRebuild() {
		return
	}
	level := slog.LevelInfo
	if s.count.blobs.Load() == 0 { // a first start: nothing was lost
		level = slog.LevelDebug
	}
	s.log.Log(s.ctx, level, "the index is rebuilt from the files", "dir", s.opt.Dir)
	err := s.index.Rebuild(s.ctx, index.Files{
		Blobs: func(yield func(v1.Hash, index.Facts) bool) error {
			return s.files.walkBlobs(func(d v1.Hash, info fs.FileInfo) bool {
				return yield(d, index.Facts{Size: info.Size(), LastUse: info.ModTime()})
			})
		},
		Links: s.allLinks,
		Has:   func(d v1.Hash) bool { _, ok := s.files.blobSize(d); return ok },
	})
	switch {
	case err == nil:
		s.log.Log(s.ctx, level, "the index is whole again")
	case !errors.Is(err, context.Canceled) && !errors.Is(err, index.ErrClosed):
		s.diskTrouble("rebuild the index", err)
	}
}

// Stats returns the store's gauges and counters.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	fills := int64(len(s.fills))
	s.mu.Unlock()
	c := &s.count
	return Stats{
		BytesHeld: s.quota.used.Load(), BytesAllowed: s.quota.limit, Blobs: c.blobs.Load(),
		Fills: fills, Background: int64(len(s.background)), Waiters: c.following.Load(),
		Landed: c.landed.Load(), Completed: c.completed.Load(), Failed: c.failed.Load(), Mismatches: c.mismatches.Load(),
		Evicted: c.evicted.Load(), EvictedBytes: c.evictedBytes.Load(),
		Through: c.through.Load(), ThroughBytes: c.throughBytes.Load(),
		NoRanges: c.noRanges.Load(), Resumed: c.resumed.Load(), DiskErrors: c.diskErrors.Load(),
		IndexLoaded: s.indexUsable(),
	}
}
