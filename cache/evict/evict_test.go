package evict_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/evict"
)

var start = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func digest(n int) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)} }

// row is digest n, of a size, used so many seconds after the start.
func row(n int, size int64, used int) evict.Row {
	return evict.Row{Digest: digest(n), Size: size, LastUse: start.Add(time.Duration(used) * time.Second)}
}

func pinned(r evict.Row) evict.Row {
	r.Class = evict.Pinned
	return r
}

func TestLRU(t *testing.T) {
	busy := func(ns ...int) func(v1.Hash) bool {
		return func(d v1.Hash) bool {
			return slices.ContainsFunc(ns, func(n int) bool { return digest(n) == d })
		}
	}
	rows := []evict.Row{row(1, 10, 5), row(2, 20, 1), row(3, 30, 3), row(4, 5, 3), row(5, 100, 9)}
	tests := []struct {
		name string
		rows []evict.Row
		free int64
		busy func(v1.Hash) bool
		want []int
	}{
		{"nothing to free", rows, 0, busy(), nil},
		{"less than nothing", rows, -5, busy(), nil},
		{"no rows", nil, 10, busy(), nil},
		{"oldest first", rows, 1, busy(), []int{2}},
		{"exactly enough", rows, 20, busy(), []int{2}},
		{"one byte more", rows, 21, busy(), []int{2, 3}},
		{"same time: the larger first", rows, 51, busy(), []int{2, 3, 4}},
		{"all of them", rows, 165, busy(), []int{2, 3, 4, 1, 5}},
		{"more than there is", rows, 1 << 40, busy(), []int{2, 3, 4, 1, 5}},
		{"busy ones stay", rows, 25, busy(2, 4), []int{3}},
		{"all busy", rows, 1, busy(1, 2, 3, 4, 5), nil},
		{"pinned stays", []evict.Row{pinned(row(1, 10, 1)), row(2, 10, 2)}, 100, busy(), []int{2}},
		{"empty and absurd sizes free nothing", []evict.Row{row(1, 0, 1), row(2, -7, 2), row(3, 5, 3), row(4, 5, 4)}, 5, busy(), []int{1, 2, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, v := range (evict.LRU{}).Victims(slices.Values(tt.rows), tt.free, tt.busy) {
				got = append(got, strings.TrimLeft(v.Digest.Hex, "0"))
			}
			var want []string
			for _, n := range tt.want {
				want = append(want, fmt.Sprint(n))
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLRUAgainstSorting: for random rows in random order the victims are the
// shortest beginning of the sorted rows that is enough.
func TestLRUAgainstSorting(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		var rows []evict.Row
		busy := map[v1.Hash]bool{}
		for n := range rng.IntN(60) {
			r := row(n, rng.Int64N(50), rng.IntN(20))
			if rng.IntN(8) == 0 {
				r = pinned(r)
			}
			busy[r.Digest] = rng.IntN(6) == 0
			rows = append(rows, r)
		}
		free := rng.Int64N(1200)
		got := (evict.LRU{}).Victims(slices.Values(rows), free, func(d v1.Hash) bool { return busy[d] })
		if diff := gocmp.Diff(plainLRU(rows, free, busy), got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	}
}

func plainLRU(rows []evict.Row, free int64, busy map[v1.Hash]bool) []evict.Row {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b evict.Row) int {
		return cmp.Or(a.LastUse.Compare(b.LastUse), cmp.Compare(b.Size, a.Size), strings.Compare(a.Digest.Hex, b.Digest.Hex))
	})
	var victims []evict.Row
	for _, r := range rows {
		if free > 0 && r.Class != evict.Pinned && !busy[r.Digest] {
			victims, free = append(victims, r), free-r.Size
		}
	}
	return victims
}

// BenchmarkLRU frees a hundredth of a store of 100,000 digests.
func BenchmarkLRU(b *testing.B) {
	rng := rand.New(rand.NewPCG(7, 8))
	var rows []evict.Row
	var sum int64
	for n := range 100_000 {
		rows = append(rows, row(n, rng.Int64N(64<<20), rng.IntN(1e6)))
		sum += rows[n].Size
	}
	idle := func(v1.Hash) bool { return false }
	b.ReportAllocs()
	for b.Loop() {
		evict.LRU{}.Victims(slices.Values(rows), sum/100, idle)
	}
}
