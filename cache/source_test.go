package cache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache"
)

// A blob is random content with its digest.
type blob struct {
	data   []byte
	digest v1.Hash
}

func randomBlob(seed uint64, size int) blob {
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rng.Read(data)
	sum := sha256.Sum256(data)
	return blob{data, v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}}
}

// A fault changes the answer to one request; the zero value changes nothing.
type fault struct {
	err       error         // instead of an answer
	cutAfter  int64         // bytes of the body before it breaks, if > 0
	corruptAt int64         // offset in the blob of a byte to flip, if > 0
	wrongAt   int64         // the answer starts here, if > 0
	total     int64         // a wrong total, if > 0
	delay     time.Duration // before the answer
}

// source is a test double of an upstream repository: it holds one blob and
// counts what it has sent.
type source struct {
	key       string
	blob      blob
	noRanges  bool
	noSize    bool
	rate      int64         // bytes a second of one connection, 0: no limit
	latency   time.Duration // before each answer
	faultFunc func(n int, off, length int64) fault

	mu       sync.Mutex
	requests []cache.Span
	active   int
	peak     int
	sent     atomic.Int64
}

func (s *source) Key() string { return s.key }

func (s *source) Get(ctx context.Context, d v1.Hash, off, n int64) (cache.Part, error) {
	size := int64(len(s.blob.data))
	asked := cache.Span{Off: off, End: off + n}
	if n < 0 {
		asked.End = size
	}
	s.mu.Lock()
	s.requests = append(s.requests, asked)
	number := len(s.requests)
	s.mu.Unlock()
	var f fault
	if s.faultFunc != nil {
		f = s.faultFunc(number, off, n)
	}
	if err := sleep(ctx, s.latency+f.delay); err != nil {
		return cache.Part{}, err
	}
	if f.err != nil {
		return cache.Part{}, f.err
	}
	if d != s.blob.digest {
		return cache.Part{}, &cache.SourceError{Final: true, Err: errors.New("blob unknown")}
	}
	end := min(size, asked.End)
	if s.noRanges {
		off, end = 0, size
	} else if off >= size && n >= 0 {
		return cache.Part{}, &cache.SourceError{BeyondEnd: true, Err: errors.New("416")}
	}
	part := cache.Part{Off: off, Len: end - off, Total: size}
	if s.noSize && n < 0 {
		part.Len, part.Total = -1, -1
	}
	if f.wrongAt > 0 {
		part.Off = f.wrongAt
	}
	if f.total > 0 {
		part.Total = f.total
	}
	data := s.blob.data[off:end]
	if c := f.corruptAt - off; f.corruptAt > 0 && c >= 0 && c < int64(len(data)) {
		data = bytes.Clone(data)
		data[c] ^= 1
	}
	s.mu.Lock()
	s.active++
	s.peak = max(s.peak, s.active)
	s.mu.Unlock()
	part.Body = &body{ctx: ctx, s: s, data: data, cut: f.cutAfter}
	return part, nil
}

type body struct {
	ctx  context.Context
	s    *source
	data []byte
	pos  int64
	cut  int64
	once sync.Once
}

var errCut = errors.New("connection reset")

func (b *body) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, b.ctx.Err()
	}
	if b.pos == int64(len(b.data)) {
		return 0, io.EOF
	}
	if b.cut > 0 && b.pos >= b.cut {
		return 0, errCut
	}
	p = p[:min(len(p), 64<<10)]
	if b.cut > 0 {
		p = p[:min(int64(len(p)), b.cut-b.pos)]
	}
	n := copy(p, b.data[b.pos:])
	if b.s.rate > 0 {
		if err := sleep(b.ctx, time.Duration(n)*time.Second/time.Duration(b.s.rate)); err != nil {
			return 0, err
		}
	}
	b.pos += int64(n)
	b.s.sent.Add(int64(n))
	return n, nil
}

func (b *body) Close() error {
	b.once.Do(func() {
		b.s.mu.Lock()
		b.s.active--
		b.s.mu.Unlock()
	})
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func open(t testing.TB, o cache.Options) *cache.Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := cache.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// checker compares what it is given with what it should be.
type checker struct {
	want []byte
	n    int
	bad  bool
}

func (c *checker) Write(p []byte) (int, error) {
	if c.n+len(p) > len(c.want) || !bytes.Equal(p, c.want[c.n:c.n+len(p)]) {
		c.bad = true
	}
	c.n += len(p)
	return len(p), nil
}

// whole reports whether it was given all bytes, and the right ones.
func (c *checker) whole() bool { return !c.bad && c.n == len(c.want) }

// pull reads [off, off+n) of b through the store; n < 0 to the end.
func pull(s *cache.Store, b blob, src cache.Source, off, n int64) (*checker, error) {
	c := &checker{want: b.data[off:]}
	if n >= 0 {
		c.want = c.want[:min(n, int64(len(c.want)))]
	}
	r, err := s.Blob(context.Background(), b.digest, src, cache.Ask{Off: off, N: n, Confirmed: true})
	if err != nil {
		return c, err
	}
	defer r.Close()
	_, err = r.CopyRange(c, off, n)
	return c, err
}

func mustPull(t *testing.T, s *cache.Store, b blob, src cache.Source, off, n int64) {
	t.Helper()
	got, err := pull(s, b, src, off, n)
	if err != nil {
		t.Fatalf("pull [%d,+%d): %v after %d bytes", off, n, err, got.n)
	}
	if !got.whole() {
		t.Fatalf("pull [%d,+%d): wrong bytes", off, n)
	}
}
