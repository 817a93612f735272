package cache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// quota counts the bytes that the store takes and has promised.
type quota struct {
	used           atomic.Int64
	limit, minFree int64
	evicting       sync.Mutex // one eviction at a time
}

// fits reports whether n more bytes may be taken.
func (s *Store) fits(n int64) bool {
	if s.quota.used.Load()+n > s.quota.limit {
		return false
	}
	if s.quota.minFree == 0 {
		return true
	}
	_, free, err := diskSpace(s.opt.Dir)
	return err == nil && free-n >= s.quota.minFree
}

// reserve counts n more bytes for f, making room if need be. It fails with errNoRoom; a fill
// without readers is parked then.
func (s *Store) reserve(f *fill, n int64) error {
	for {
		used := s.quota.used.Load()
		if !s.fits(n) && (f.park() || !s.makeRoom(n)) { // what nobody reads is no reason to evict
			return errNoRoom
		}
		if s.quota.used.CompareAndSwap(used, used+n) { // what was judged is what is taken
			f.reserved.Add(n)
			return nil
		}
	}
}

// largest is the size of the largest blob that can be kept.
func (s *Store) largest() int64 {
	if s.opt.MaxBlobSize > 0 {
		return min(s.opt.MaxBlobSize, s.quota.limit)
	}
	return s.quota.limit
}

// release gives back what f has reserved and does not need.
func (s *Store) release(f *fill, n int64) {
	s.quota.used.Add(-n)
	f.reserved.Add(-n)
}

// useTable counts the open readers of verified content.
type useTable struct {
	mu   sync.Mutex
	open map[v1.Hash]int
}

func (t *useTable) add(d v1.Hash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[v1.Hash]int)
	}
	t.open[d]++
}

func (t *useTable) drop(d v1.Hash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[d]--; t.open[d] <= 0 {
		delete(t.open, d)
	}
}

func (t *useTable) has(d v1.Hash) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[d] > 0
}

// ErrLocked: another process has the folder open.
var ErrLocked = errors.New("another entrepot is using it; stop that one, or give this one a cache.dir of its own")

// lockDir takes the folder's lock, which the kernel gives back when the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(&os.PathError{Op: "lock", Path: dir, Err: err}, f.Close())
	}
	return f, nil
}
