package cache

import (
	"math/rand/v2"
	"testing"
)

// TestSpansAgainstBitmap holds the set against a plain bitmap through random operations.
func TestSpansAgainstBitmap(t *testing.T) {
	const n = 64
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var s spans
		var bits [n]bool
		for range 60 {
			a := rng.Int64N(n)
			x := Span{a, a + rng.Int64N(n-a+1)}
			put := rng.IntN(3) > 0
			if put {
				s.add(x)
			} else {
				s.remove(x)
			}
			for i := x.Off; i < x.End; i++ {
				bits[i] = put
			}
			checkSpans(t, s, bits[:])
			if t.Failed() {
				t.Fatalf("after add=%v %v: %v", put, x, s)
			}
		}
	}
}

func checkSpans(t *testing.T, s spans, bits []bool) {
	t.Helper()
	for i, x := range s {
		if x.Len() <= 0 || i > 0 && s[i-1].End >= x.Off {
			t.Errorf("not canonical: %v", s)
		}
	}
	var total int64
	for i := range bits {
		off, end := int64(i), int64(i)
		for end < int64(len(bits)) && bits[end] {
			end++
		}
		if got := s.from(off); got != end {
			t.Errorf("from(%d) = %d, want %d", off, got, end)
		}
		gap := Span{end, end}
		for gap.End < int64(len(bits)) && !bits[gap.End] {
			gap.End++
		}
		got, ok := s.gap(Span{off, int64(len(bits))})
		if ok != (gap.Len() > 0) || ok && got != gap {
			t.Errorf("gap(%d) = %v %v, want %v", off, got, ok, gap)
		}
		if bits[i] {
			total++
		}
	}
	if s.total() != total {
		t.Errorf("total = %d, want %d", s.total(), total)
	}
}
