package cache_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/entrepot/entrepot/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mib   = 1 << 20
	piece = 256 << 10 // small, so that blobs of a few MiB have many
)

func TestOneFetch(t *testing.T) {
	b := randomBlob(1, 5*mib+123)
	size := int64(len(b.data))
	rows := []struct {
		name  string
		reads func(i int) (off, n int64)
		src   *source
	}{
		{"whole", func(int) (int64, int64) { return 0, -1 }, &source{}},
		{"bounded ranges", func(i int) (int64, int64) { return int64(i) * 50_000, 70_000 }, &source{}},
		{"open ranges", func(i int) (int64, int64) { return int64(i) * 52_000, -1 }, &source{}},
		{"backwards", func(i int) (int64, int64) { return size - int64(i+1)*50_000, 50_000 }, &source{}},
		{"mixed", func(i int) (int64, int64) { return int64(i%7) * 700_000, []int64{-1, 900_000}[i%2] }, &source{}},
		{"source without ranges", func(int) (int64, int64) { return 0, -1 }, &source{noRanges: true}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := open(t, cache.Options{PieceSize: piece})
			src := row.src
			src.key, src.blob = "a", b
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					off, n := row.reads(i)
					mustPull(t, s, b, src, off, n)
				})
			}
			wg.Wait()
			mustPull(t, s, b, src, 0, -1)
			if got := src.sent.Load(); got != size {
				t.Errorf("the source sent %d bytes, want %d", got, size)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	b := randomBlob(2, 5*mib)
	size := int64(len(b.data))
	only := func(n int, f fault) func(int, int64, int64) fault {
		return func(i int, _, _ int64) fault {
			if i == n {
				return f
			}
			return fault{}
		}
	}
	rows := []struct {
		name   string
		fault  func(n int, off, length int64) fault
		noRng  bool
		excess int64 // bytes that may be sent beyond the blob's size
	}{
		{"first answer cut", only(1, fault{cutAfter: 100_001}), false, 0},
		{"every third cut", func(i int, _, _ int64) fault {
			if i%3 == 0 {
				return fault{cutAfter: 70_000}
			}
			return fault{}
		}, false, 0},
		{"first refused", only(1, fault{err: errors.New("refused")}), false, 0},
		{"second refused", only(2, fault{err: errors.New("refused")}), false, 0},
		{"throttled twice", func(i int, _, _ int64) fault {
			if i <= 2 {
				return fault{err: &cache.SourceError{Err: errors.New("429"), Throttled: true, RetryAfter: time.Second}}
			}
			return fault{}
		}, false, 0},
		{"wrong start", only(2, fault{wrongAt: 77}), false, size},
		{"wrong total later", only(3, fault{total: size + 1}), false, 0},
		{"no ranges, cut", only(1, fault{cutAfter: 3 * mib}), true, 3 * mib},
		{"corrupt once", only(2, fault{corruptAt: 300_000}), false, size},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := cache.Open(cache.Options{Dir: t.TempDir(), PieceSize: piece})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close(t.Context())
				src := &source{key: "a", blob: b, noRanges: row.noRng, faultFunc: row.fault}
				other := &source{key: "b", blob: b}
				got, err := pull(s, b, src, 0, -1)
				switch {
				case row.name == "corrupt once" || row.name == "wrong total later":
					if err == nil && !got.whole() {
						t.Fatal("a wrong body was ended cleanly")
					}
					mustPull(t, s, b, other, 0, -1)
				case err != nil:
					t.Fatal(err)
				case !got.whole():
					t.Fatal("wrong bytes")
				}
				if got := src.sent.Load(); got > size+row.excess {
					t.Errorf("the source sent %d bytes, want at most %d", got, size+row.excess)
				}
			})
		})
	}
}

// TestHoldBack: the last byte of an answer that reaches the end waits for the digest.
func TestHoldBack(t *testing.T) {
	b := randomBlob(3, 3*mib)
	bad := b
	bad.data = bytes.Clone(b.data)
	bad.data[2*mib] ^= 1
	for _, off := range []int64{0, 1, 2*mib + 5, int64(len(b.data)) - 1} {
		s := open(t, cache.Options{PieceSize: piece})
		got, err := pull(s, bad, &source{key: "a", blob: bad}, off, -1)
		if !errors.Is(err, cache.ErrDamaged) {
			t.Errorf("from %d: err = %v, want ErrDamaged", off, err)
		}
		if got.n >= len(b.data)-int(off) {
			t.Errorf("from %d: the last byte of a wrong body was sent", off)
		}
		start := time.Now()
		if _, err := pull(s, bad, &source{key: "a", blob: bad}, off, -1); !errors.Is(err, cache.ErrDamaged) {
			t.Errorf("again: err = %v after %v, want ErrDamaged", err, time.Since(start))
		}
	}
}

func TestFirstByteAtOnce(t *testing.T) {
	b := randomBlob(4, 64*mib)
	synctest.Test(t, func(t *testing.T) {
		s, err := cache.Open(cache.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		src := &source{key: "a", blob: b, rate: 8 * mib, latency: 20 * time.Millisecond}
		start := time.Now()
		r, err := s.Blob(t.Context(), b.digest, src, cache.Ask{N: -1, Confirmed: true})
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 25*time.Millisecond {
			t.Errorf("the size was known after %v", d)
		}
		far, err := s.Blob(t.Context(), b.digest, src, cache.Ask{Off: 63 * mib, N: mib, Confirmed: true})
		if err != nil {
			t.Fatal(err)
		}
		first := &firstWrite{start: start}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.CopyRange(first, 0, -1); err != nil {
				t.Error(err)
			}
		})
		var buf bytes.Buffer
		began := time.Now()
		if _, err := far.CopyRange(&buf, 63*mib, mib); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 200*time.Millisecond { // a MiB takes 125 ms
			t.Errorf("the far reader waited %v", d)
		}
		wg.Wait()
		if first.after > 40*time.Millisecond {
			t.Errorf("first byte after %v", first.after)
		}
		if d := time.Since(start); d > 2500*time.Millisecond { // 8 s over one connection
			t.Errorf("the whole took %v", d)
		}
		if src.peak > 5 {
			t.Errorf("%d connections at once", src.peak)
		}
		r.Close()
		far.Close()
		if src.sent.Load() != int64(len(b.data)) {
			t.Errorf("sent %d", src.sent.Load())
		}
	})
}

type firstWrite struct {
	start time.Time
	after time.Duration
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.after == 0 {
		w.after = time.Since(w.start)
	}
	return len(p), nil
}

// TestLeaving: a fill goes on when its first reader goes, and on demand it does not.
func TestLeaving(t *testing.T) {
	b := randomBlob(5, 8*mib)
	size := int64(len(b.data))
	for _, onDemand := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, err := cache.Open(cache.Options{Dir: t.TempDir(), PieceSize: piece, OnDemand: onDemand})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(t.Context())
			src := &source{key: "a", blob: b, rate: mib}
			ctx, cancel := context.WithCancel(t.Context())
			r, err := s.Blob(ctx, b.digest, src, cache.Ask{N: -1, Confirmed: true})
			if err != nil {
				t.Fatal(err)
			}
			var buf bytes.Buffer
			if _, err := r.CopyRange(&buf, 0, mib); err != nil {
				t.Fatal(err)
			}
			r.Close()
			cancel()
			time.Sleep(time.Minute) // virtual
			if sent := src.sent.Load(); onDemand && sent > 2*mib || !onDemand && sent != size {
				t.Errorf("onDemand=%v: %d bytes sent", onDemand, sent)
			}
			mustPull(t, s, b, src, 0, -1)
			if sent := src.sent.Load(); sent != size {
				t.Errorf("onDemand=%v: %d bytes in all, want %d", onDemand, sent, size)
			}
		})
	}
}

// TestLastMiBOnDemand: only what is read is fetched.
func TestLastMiBOnDemand(t *testing.T) {
	b := randomBlob(6, 16*mib)
	for _, ask := range []cache.Ask{{Off: 15 * mib, N: mib}, {Off: -mib}, {Off: -mib, Hint: 16 * mib}} {
		s := open(t, cache.Options{OnDemand: true})
		src := &source{key: "a", blob: b}
		ask.Confirmed = true
		r, err := s.Blob(t.Context(), b.digest, src, ask)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if _, err := r.CopyRange(&buf, 15*mib, mib); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if !bytes.Equal(buf.Bytes(), b.data[15*mib:]) {
			t.Error("wrong bytes")
		}
		if src.sent.Load() > mib+1 {
			t.Errorf("%+v: %d bytes fetched", ask, src.sent.Load())
		}
	}
}

// TestRestart: what has landed is not fetched again.
func TestRestart(t *testing.T) {
	b := randomBlob(7, 8*mib)
	size := int64(len(b.data))
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := cache.Open(cache.Options{Dir: dir, PieceSize: piece})
		if err != nil {
			t.Fatal(err)
		}
		src := &source{key: "a", blob: b, rate: mib}
		r, err := s.Blob(t.Context(), b.digest, src, cache.Ask{N: -1, Confirmed: true})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.Close()
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := src.sent.Load()
		if first < 3*mib || first > 7*mib {
			t.Fatalf("%d bytes before the restart", first)
		}
		s, err = cache.Open(cache.Options{Dir: dir, PieceSize: piece})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		mustPull(t, s, b, src, 0, -1)
		if twice := src.sent.Load() - size; twice > 5*grain {
			t.Errorf("%d bytes fetched twice", twice)
		}
	})
}

const grain = 256 << 10

// TestSources: a fill goes over to another reader's source, and each reader hears its own error.
func TestSources(t *testing.T) {
	b := randomBlob(8, 4*mib)
	gone := &cache.SourceError{Final: true, Err: errors.New("a says no")}
	synctest.Test(t, func(t *testing.T) {
		s, err := cache.Open(cache.Options{Dir: t.TempDir(), PieceSize: piece})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		a := &source{key: "a", blob: b, rate: mib, faultFunc: func(n int, _, _ int64) fault {
			if n > 4 {
				return fault{err: gone}
			}
			return fault{}
		}}
		other := &source{key: "b", blob: b, rate: mib}
		var wg sync.WaitGroup
		wg.Go(func() { mustPull(t, s, b, a, 0, -1) })
		wg.Go(func() { time.Sleep(time.Millisecond); mustPull(t, s, b, other, 0, -1) })
		wg.Wait()
		if sum := a.sent.Load() + other.sent.Load(); sum != int64(len(b.data)) {
			t.Errorf("%d bytes sent", sum)
		}
		b2 := randomBlob(9, 4*mib)
		no := func(err error) *source {
			return &source{key: err.Error(), blob: b2, latency: time.Second, faultFunc: func(int, int64, int64) fault {
				return fault{err: &cache.SourceError{Final: true, Err: err}}
			}}
		}
		for _, e := range []error{errors.New("x"), errors.New("y")} {
			wg.Go(func() {
				if _, err := pull(s, b2, no(e), 0, -1); !errors.Is(err, e) {
					t.Errorf("err = %v, want %v", err, e)
				}
			})
		}
		wg.Wait()
	})
}

func TestUnconfirmed(t *testing.T) {
	b := randomBlob(10, 2*mib)
	s := open(t, cache.Options{})
	src := &source{key: "a", blob: b}
	if r, err := s.Blob(t.Context(), b.digest, src, cache.Ask{N: -1}); err != nil {
		t.Fatal(err) // the source's own answer confirms
	} else {
		r.Close()
	}
	mustPull(t, s, b, src, 0, -1)
	if _, err := s.Blob(t.Context(), b.digest, &source{key: "b", blob: b}, cache.Ask{N: -1}); !errors.Is(err, cache.ErrUnconfirmed) {
		t.Errorf("err = %v, want ErrUnconfirmed", err)
	}
}

func TestOddSizes(t *testing.T) {
	for _, size := range []int{0, 1, piece - 1, piece, piece + 1, mib, mib + 1} {
		for _, src := range []*source{{}, {noRanges: true}, {noRanges: true, noSize: true}} {
			b := randomBlob(11, size)
			src.key, src.blob = "a", b
			s := open(t, cache.Options{PieceSize: piece})
			mustPull(t, s, b, src, 0, -1)
			mustPull(t, s, b, src, int64(size/2), -1)
			if sent := src.sent.Load(); sent != int64(size) {
				t.Errorf("size %d, %v: %d bytes sent", size, src.noRanges, sent)
			}
		}
	}
}

// TestNoRoom: what the disk can't take is passed through, verified all the same.
func TestNoRoom(t *testing.T) {
	b := randomBlob(12, 3*mib)
	for _, o := range []cache.Options{
		{Size: func(int64) int64 { return mib }},
		{MaxBlobSize: mib},
		{MinFree: func(total int64) int64 { return total }},
	} {
		o.PieceSize = piece
		s := open(t, o)
		src := &source{key: "a", blob: b}
		mustPull(t, s, b, src, 0, -1)
		mustPull(t, s, b, src, 100, 5000)
		mustPull(t, s, b, src, 2*mib, -1)
		if st := s.Stats(); st.Through == 0 || st.BytesHeld != 0 {
			t.Errorf("stats: %+v", st)
		}
		bad := b
		bad.data = bytes.Clone(b.data)
		bad.data[5] ^= 1
		if got, err := pull(s, b, &source{key: "a", blob: bad, faultFunc: nil}, 0, -1); err == nil || got.whole() {
			t.Errorf("a wrong body was passed on: %v", err)
		}
	}
}
