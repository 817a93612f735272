package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/entrepot/entrepot/cache"
)

// TestLandedBytesAreNotRewritten: a source without ranges sends from the start again what was hashed already.
func TestLandedBytesAreNotRewritten(t *testing.T) {
	b := randomBlob(70, 5*mib)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{PieceSize: piece})
		src := &source{key: "a", blob: b, noRanges: true, faultFunc: func(n int, _, _ int64) fault {
			return map[int]fault{1: {cutAfter: 3 * mib}, 2: {corruptAt: 1000}}[n]
		}}
		_, _ = pull(s, b, src, 0, -1)
		time.Sleep(time.Second)
		if got, err := pull(s, b, src, 0, -1); err == nil && !got.whole() {
			t.Error("wrong bytes are kept, and served as a hit")
		}
	})
}

// TestNoProgressIsNoProgress: a source without ranges that always breaks at the same byte is given up.
func TestNoProgressIsNoProgress(t *testing.T) {
	b := randomBlob(71, 5*mib)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{PieceSize: piece})
		src := &source{key: "a", blob: b, noRanges: true, faultFunc: func(int, int64, int64) fault { return fault{cutAfter: 3 * mib} }}
		start := time.Now()
		if _, err := pull(s, b, src, 0, -1); err == nil || time.Since(start) > time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestLostPower: a record of an earlier boot does not vouch for what this one has written.
func TestLostPower(t *testing.T) {
	b := randomBlob(72, 8*mib)
	o := cache.Options{Dir: t.TempDir(), PieceSize: piece, OnDemand: true}
	s := open(t, o)
	src := &source{key: "a", blob: b}
	mustPull(t, s, b, src, 0, mib)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(o.Dir, "fills", "sha256-"+b.digest.Hex)
	raw, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[16:32], "another boot....") // and the data is gone with the power
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "state"), raw, 0o600), os.RemoveAll(filepath.Join(dir, "synced")), os.Truncate(filepath.Join(dir, "data"), 0)); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	mustPull(t, s, b, src, 7*mib, mib)
	s = reopen(t, s, o)
	mustPull(t, s, b, src, 0, mib)
}

// TestHelpersStartAtOnce: the other workers start when the first answer has said the size.
func TestHelpersStartAtOnce(t *testing.T) {
	b := randomBlob(73, 64*mib)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{})
		start := time.Now()
		src := &source{key: "a", blob: b, rate: mib, latency: 20 * time.Millisecond}
		src.faultFunc = func(n int, _, _ int64) fault {
			if n > 1 && n <= 4 && time.Since(start) > 100*time.Millisecond {
				t.Errorf("request %d comes after %v", n, time.Since(start))
			}
			return fault{}
		}
		mustPull(t, s, b, src, 0, -1)
	})
}

// TestDamagedRange: a bounded range is not served from what is known to be wrong.
func TestDamagedRange(t *testing.T) {
	b := randomBlob(74, 4*mib)
	rotten := b
	rotten.data = bytes.Clone(b.data)
	rotten.data[1000] ^= 1
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{PieceSize: piece})
		src := &source{key: "a", blob: rotten, rate: mib}
		r, err := s.Blob(t.Context(), b.digest, src, cache.Ask{N: 2 * mib, Confirmed: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for range 2 {
			if _, err := pull(s, b, src, 0, -1); !errors.Is(err, cache.ErrDamaged) {
				t.Errorf("pull: %v, want ErrDamaged", err)
			}
			time.Sleep(10 * time.Second)
		}
		if n, err := r.CopyRange(io.Discard, 0, 2*mib); err == nil {
			t.Errorf("%d bytes known to be wrong were ended cleanly", n)
		}
	})
}

// TestRightOfTheSlower: a reader whose own source has answered has its right, though another source brings the bytes.
func TestRightOfTheSlower(t *testing.T) {
	b := randomBlob(76, 32*mib)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{PieceSize: mib})
		slow := &source{key: "a", blob: b, rate: mib, latency: 1500 * time.Millisecond}
		quick := &source{key: "b", blob: b, rate: mib, latency: 10 * time.Millisecond}
		var wg sync.WaitGroup
		wg.Go(func() {
			time.Sleep(10 * time.Millisecond)
			mustPull(t, s, b, quick, 0, -1)
		})
		r, err := s.Blob(t.Context(), b.digest, slow, cache.Ask{N: -1})
		if err != nil {
			t.Error(err)
		} else if err := r.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// TestBackgroundGoesFirst: a fill that nobody reads makes room for one that somebody does.
func TestBackgroundGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, cache.Options{PieceSize: piece, Size: func(int64) int64 { return 6 * mib }})
		time.Sleep(time.Second)
		background := randomBlob(78, 5*mib)
		r, err := s.Blob(t.Context(), background.digest, &source{key: "a", blob: background, rate: mib / 2}, cache.Ask{N: -1, Confirmed: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		wanted := randomBlob(79, 4*mib)
		mustPull(t, s, wanted, &source{key: "a", blob: wanted, rate: 4 * mib}, 0, -1)
		time.Sleep(time.Second)
		if _, state := s.State(wanted.digest); state != cache.Here {
			t.Errorf("what was read is not kept: %+v", s.Stats())
		}
	})
}

// TestWaitsPastTheDisk: a Retry-After beyond all patience is not waited out, and a long patience is kept.
func TestWaitsPastTheDisk(t *testing.T) {
	b := randomBlob(80, 4*mib)
	rows := map[string]struct {
		err      error
		patience time.Duration
	}{
		"an hour":      {&cache.SourceError{Err: errors.New("429"), Throttled: true, RetryAfter: time.Hour}, 10 * time.Second},
		"for a while":  {errors.New("502"), 3 * time.Minute},
		"for a moment": {errors.New("502"), time.Second},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, cache.Options{MaxBlobSize: mib, Patience: row.patience})
				src := &source{key: "a", blob: b, faultFunc: func(n int, _, _ int64) fault {
					if n >= 2 {
						return fault{err: row.err}
					}
					return fault{}
				}}
				start := time.Now()
				if _, err := pull(s, b, src, 0, -1); err == nil || time.Since(start) > row.patience+time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
			})
		})
	}
}

// TestLongRecord: an earlier fill's record that goes beyond the end of the blob is forgotten.
func TestLongRecord(t *testing.T) {
	b := randomBlob(82, 3*mib)
	long := b
	long.data = append(bytes.Clone(b.data), make([]byte, 3*mib)...)
	o := cache.Options{Dir: t.TempDir(), PieceSize: piece, OnDemand: true, Patience: time.Second}
	s := open(t, o)
	mustPull(t, s, long, &source{key: "a", blob: long}, 0, 3*mib)
	o.OnDemand = false
	s = reopen(t, s, o)
	mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1)
}

// TestRottenInheritance: what an earlier process left damaged is never ended cleanly, nor repaired under
// the eyes of that process's readers: it goes past the disk once.
func TestRottenInheritance(t *testing.T) {
	b := randomBlob(83, 4*mib)
	o := cache.Options{Dir: t.TempDir(), PieceSize: piece, OnDemand: true}
	s := open(t, o)
	mustPull(t, s, b, &source{key: "a", blob: b}, 0, 2*mib)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(o.Dir, "fills", "sha256-"+b.digest.Hex, "data")
	f, err := os.OpenFile(data, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b.data[1000] ^ 1}, 1000); err != nil {
		t.Fatal(err)
	}
	s = open(t, cache.Options{Dir: o.Dir, PieceSize: piece})
	if got, err := pull(s, b, &source{key: "a", blob: b}, 0, -1); err == nil && !got.whole() {
		t.Error("a wrong body was ended cleanly")
	}
	mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1)
	was := make([]byte, 1)
	if _, err := f.ReadAt(was, 1000); err != nil || was[0] != b.data[1000]^1 {
		t.Errorf("the file that an earlier reader has open has changed under it: %v, %v", was, err)
	}
}

// TestStreamBeyondTheLargest: a stream that does not say its size is held to the bounds too.
func TestStreamBeyondTheLargest(t *testing.T) {
	b := randomBlob(84, 4*mib)
	s := open(t, cache.Options{PieceSize: piece, MaxBlobSize: 2 * mib})
	mustPull(t, s, b, &source{key: "a", blob: b, noRanges: true, noSize: true}, 0, -1)
	if _, state := s.State(b.digest); state == cache.Here {
		t.Error("it is kept")
	}
}
