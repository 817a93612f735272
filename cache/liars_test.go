package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache"
)

// A liar is a source whose nth answer is what a function says.
type liar struct {
	n     atomic.Int64
	sent  atomic.Int64
	get   func(n, off, end int64) (from, to, total int64, err error) // of the answer to a request for [off, end)
	data  []byte
	sized bool // answers say how long they are
}

func (s *liar) Key() string { return "liar" }

func (s *liar) Get(ctx context.Context, _ v1.Hash, off, n int64) (cache.Part, error) {
	if err := sleep(ctx, time.Millisecond); err != nil {
		return cache.Part{}, err
	}
	end := int64(len(s.data))
	if n >= 0 {
		end = min(end, off+n)
	}
	from, to, total, err := s.get(s.n.Add(1), off, end)
	if err != nil {
		return cache.Part{}, err
	}
	s.sent.Add(to - from)
	p := cache.Part{Body: io.NopCloser(bytes.NewReader(s.data[from:to])), Off: from, Len: to - from, Total: total}
	if !s.sized {
		p.Len = -1
	}
	return p, nil
}

// TestLiars: whatever a source says about sizes and ranges, the client gets its blob or an error, soon, and
// nobody is asked without end.
func TestLiars(t *testing.T) {
	const size = 3 * mib
	b := randomBlob(50, size)
	beyond := &cache.SourceError{BeyondEnd: true, Err: errors.New("416")}
	rows := []struct {
		name     string
		ask      cache.Ask
		get      func(n, off, end int64) (from, to, total int64, err error)
		unsized  bool
		fails    bool
		requests int64 // at most
		most     float64
	}{
		{"answers shorter than asked for", cache.Ask{N: -1}, func(_, off, end int64) (int64, int64, int64, error) {
			return off, min(end, off+100_000), size, nil
		}, false, false, 40, 1},
		{"ranges without a total", cache.Ask{N: -1}, func(_, off, end int64) (int64, int64, int64, error) {
			if off >= size {
				return 0, 0, 0, beyond
			}
			return off, end, -1, nil
		}, false, false, 5, 1.2},
		{"ranges without a total, in mid-blob", cache.Ask{Off: mib, N: 1000}, func(_, off, end int64) (int64, int64, int64, error) {
			return off, end, -1, nil
		}, false, false, 5, 1.2},
		{"always beyond the end", cache.Ask{N: -1}, func(_, _, _ int64) (int64, int64, int64, error) {
			return 0, 0, 0, beyond
		}, false, true, 20, 0},
		{"another range than asked for, always", cache.Ask{N: -1}, func(_, off, end int64) (int64, int64, int64, error) {
			return off + 1, end, size, nil
		}, false, true, 20, 20},
		{"an empty answer first", cache.Ask{N: -1}, func(n, off, end int64) (int64, int64, int64, error) {
			if n == 1 {
				return 0, 0, 0, nil
			}
			return off, end, size, nil
		}, false, false, 20, 1},
		{"a small size first", cache.Ask{N: -1}, func(n, off, end int64) (int64, int64, int64, error) {
			if n == 1 {
				return 0, 100_000, 100_000, nil
			}
			return off, end, size, nil
		}, false, false, 20, 1.1},
		{"a stream without size, cut once", cache.Ask{N: -1, Hint: 1}, func(n, _, _ int64) (int64, int64, int64, error) {
			if n == 1 {
				return 0, 200_000, -1, nil
			}
			return 0, size, -1, nil
		}, true, false, 5, 1.2},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, cache.Options{PieceSize: piece, Parallel: 1})
				src := &liar{get: row.get, data: b.data, sized: !row.unsized}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				row.ask.Confirmed = true
				c := &checker{want: b.data}
				r, err := s.Blob(ctx, b.digest, src, row.ask)
				if err == nil {
					_, err = r.CopyRange(c, 0, -1)
					_ = r.Close()
				}
				switch {
				case row.fails && err == nil:
					t.Error("no error")
				case !row.fails && (err != nil || !c.whole()):
					t.Errorf("%d bytes, wrong %v, %v", c.n, c.bad, err)
				}
				time.Sleep(time.Minute)
				if n, sent := src.n.Load(), float64(src.sent.Load())/size; n > row.requests || sent > row.most+0.001 {
					t.Errorf("%d requests, %.2f x; want at most %d, %.2f", n, sent, row.requests, row.most)
				}
			})
		})
	}
}

// TestLongFile: what an earlier fill left behind the blob's end is not kept.
func TestLongFile(t *testing.T) {
	b := randomBlob(51, 3*mib)
	long := b
	long.data = append(bytes.Clone(b.data), make([]byte, 3*mib)...)
	o := cache.Options{Dir: t.TempDir(), PieceSize: piece, OnDemand: true}
	s := open(t, o)
	mustPull(t, s, long, &source{key: "a", blob: long}, 5*mib, mib)
	s = reopen(t, s, o)
	src := &source{key: "a", blob: b}
	mustPull(t, s, b, src, 0, -1)
	eventually(t, func() bool { _, state := s.State(b.digest); return state == cache.Here })
	info, err := os.Stat(filepath.Join(o.Dir, "blobs", "sha256", b.digest.Hex))
	if err != nil || info.Size() != 3*mib {
		t.Errorf("the file: %v, %v; want 3 MiB", info, err)
	}
}

// TestCorruptThenNoRoom: bytes that a fill handed out before it found no room count for the digest too.
func TestCorruptThenNoRoom(t *testing.T) {
	b := randomBlob(52, 6*mib)
	for _, corrupt := range []bool{true, false} {
		disk := int64(4 * mib)
		s := open(t, cache.Options{PieceSize: piece, Parallel: 1, Size: func(int64) int64 { return 8 * mib }, MinFree: func(total int64) int64 { return 0 }})
		filler := randomBlob(53, 5*mib) // in use, so that it can't go
		mustPull(t, s, filler, &source{key: "a", blob: filler}, 0, -1)
		settled(t, s)
		hold, err := s.Blob(t.Context(), filler.digest, &source{key: "a", blob: filler}, cache.Ask{N: -1, Confirmed: true})
		if err != nil {
			t.Fatal(err)
		}
		src := &source{key: "a", blob: b, rate: 40 * mib, faultFunc: func(n int, _, _ int64) fault {
			if n == 1 && corrupt {
				return fault{corruptAt: 1000}
			}
			return fault{}
		}}
		got, err := pull(s, b, src, 0, -1)
		if corrupt && err == nil || !corrupt && (err != nil || !got.whole()) {
			t.Errorf("corrupt %v: %d bytes, wrong %v, %v", corrupt, got.n, got.bad, err)
		}
		if st := s.Stats(); st.Through == 0 {
			t.Error("nothing went past the disk")
		}
		if sent := src.sent.Load(); !corrupt && sent > 6*mib+disk/4 {
			t.Errorf("%d bytes were fetched for 6 MiB", sent)
		}
		if err := hold.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLargerThanTheCache: what can never be kept does not drive out what is.
func TestLargerThanTheCache(t *testing.T) {
	s := open(t, cache.Options{PieceSize: piece, Size: func(int64) int64 { return 2 * mib }})
	for i := range 10 {
		b := randomBlob(uint64(300+i), 100_000)
		mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1)
	}
	settled(t, s)
	before := s.Stats().Blobs
	b := randomBlob(54, 4*mib)
	src := &source{key: "a", blob: b}
	for range 2 {
		mustPull(t, s, b, src, 0, -1)
	}
	if after := s.Stats().Blobs; after != before {
		t.Errorf("%d blobs are left of %d", after, before)
	}
}

// TestSecondSource: a source that does not answer, or sends rubbish, is no reason to refuse what another has.
func TestSecondSource(t *testing.T) {
	b := randomBlob(55, 4*mib)
	rotten := b
	rotten.data = bytes.Clone(b.data)
	rotten.data[3*mib] ^= 1
	rows := map[string]*source{
		"silent": {key: "a", blob: b, faultFunc: func(int, int64, int64) fault {
			return fault{delay: 10 * time.Second, err: errors.New("timeout")}
		}},
		"rotten": {key: "a", blob: rotten, rate: 20 * mib},
	}
	for name, first := range rows {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, cache.Options{PieceSize: piece})
				good := &source{key: "b", blob: b, latency: 50 * time.Millisecond}
				var wg sync.WaitGroup
				wg.Go(func() { _, _ = pull(s, b, first, 0, -1) })
				time.Sleep(10 * time.Millisecond)
				start := time.Now()
				_, err := pull(s, b, good, 0, -1)
				if took := time.Since(start); name == "silent" && (err != nil || took > 3*time.Second) {
					t.Errorf("the good source's reader: %v after %v", err, took)
				}
				wg.Wait()
				mustPull(t, s, b, good, 0, -1)
			})
		})
	}
}

// TestOutage: a source that fails for less than patience is not given up, however many requests fail at once.
func TestOutage(t *testing.T) {
	b := randomBlob(56, 32*mib)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{PieceSize: mib})
		start := time.Now()
		src := &source{key: "a", blob: b, rate: 2 * mib}
		src.faultFunc = func(int, int64, int64) fault {
			if d := time.Since(start); d > 1500*time.Millisecond && d < 7*time.Second {
				return fault{err: errors.New("502")}
			}
			return fault{}
		}
		mustPull(t, s, b, src, 0, -1)
	})
}

// TestFollowingAStreamWithoutSize: its readers get what has come, not all of it at the end.
func TestFollowingAStreamWithoutSize(t *testing.T) {
	b := randomBlob(57, 8*mib)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{PieceSize: 64 * mib})
		src := &source{key: "a", blob: b, rate: mib, noRanges: true, noSize: true}
		r, err := s.Blob(t.Context(), b.digest, src, cache.Ask{N: -1, Hint: 1, Confirmed: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		w := &slowest{last: time.Now()}
		if _, err := r.CopyRange(w, 0, -1); err != nil {
			t.Fatal(err)
		}
		if w.gap > 2*time.Second {
			t.Errorf("the longest wait between two writes was %v of 8 s", w.gap)
		}
	})
}

// slowest notes the longest time between two writes.
type slowest struct {
	last time.Time
	gap  time.Duration
}

func (w *slowest) Write(p []byte) (int, error) {
	w.gap, w.last = max(w.gap, time.Since(w.last)), time.Now()
	return len(p), nil
}

// TestOnDemandAgain: the same small range again costs nothing, even with the source gone.
func TestOnDemandAgain(t *testing.T) {
	b := randomBlob(58, 64*mib)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{OnDemand: true})
		src := &source{key: "a", blob: b}
		for range 5 {
			mustPull(t, s, b, src, 0, 64<<10)
			time.Sleep(45 * time.Second) // long enough for it to be parked
		}
		if sent := src.sent.Load(); sent > 64<<10 {
			t.Errorf("%d bytes were fetched for 64 KiB", sent)
		}
		gone := &source{key: "a", blob: b, faultFunc: func(int, int64, int64) fault {
			return fault{err: &cache.SourceError{Final: true, Err: errors.New("gone")}}
		}}
		mustPull(t, s, b, gone, 0, 64<<10)
	})
}

// TestSmallIsVerifiedPastTheDiskToo: content up to 1 MiB is right before its first byte, wherever it comes from.
func TestSmallIsVerifiedPastTheDiskToo(t *testing.T) {
	b := randomBlob(59, 100_000)
	rotten := b
	rotten.data = bytes.Clone(b.data)
	rotten.data[5] ^= 1
	s := open(t, cache.Options{MaxBlobSize: 1000})
	if r, err := s.Blob(t.Context(), b.digest, &source{key: "a", blob: rotten}, cache.Ask{N: -1, Confirmed: true}); !errors.Is(err, cache.ErrDamaged) {
		t.Errorf("Blob = %v, %v; want ErrDamaged", r, err)
	}
	mustPull(t, s, b, &source{key: "b", blob: b}, 0, -1)
	mustPull(t, s, b, &source{key: "b", blob: b}, 500, 1000)
}

// TestHandOver: the next process goes on where this one's fill had come to, while this one's reader gets the rest.
func TestHandOver(t *testing.T) {
	b := randomBlob(60, 8*mib)
	o := cache.Options{Dir: t.TempDir(), PieceSize: piece}
	first := open(t, o)
	slow := &source{key: "a", blob: b, rate: mib}
	read := make(chan error, 1)
	go func() {
		got, err := pull(first, b, slow, 0, -1)
		if err == nil && !got.whole() {
			err = errors.New("wrong bytes")
		}
		read <- err
	}()
	eventually(t, func() bool { return slow.sent.Load() > mib })
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := first.Detach(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("Detach took %v", took)
	}
	before := slow.sent.Load()
	second := open(t, o)
	fast := &source{key: "a", blob: b}
	mustPull(t, second, b, fast, 0, -1)
	if sent := fast.sent.Load(); sent > 8*mib-before+2*mib {
		t.Errorf("the next process fetched %d bytes again, %d had landed", sent, before)
	}
	if err := <-read; err != nil {
		t.Errorf("the reader of the first: %v", err)
	}
	mustPull(t, second, b, &source{key: "gone"}, 0, -1)
}
