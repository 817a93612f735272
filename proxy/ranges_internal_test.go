package proxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot/entrepot/cache"
)

func TestSections(t *testing.T) {
	span := func(off, end int64, open bool) section { return section{cache.Span{Off: off, End: end}, open} }
	rows := []struct {
		header string
		size   int64
		want   []section // nil: the whole
		err    bool
		beyond bool // nothing of it is there: 416
	}{
		{header: "", size: 10},
		{header: "bytes=0-4", size: 10, want: []section{span(0, 5, false)}},
		{header: "bytes=0-", size: 10, want: []section{span(0, 10, true)}},
		{header: "bytes=0-9", size: 10, want: []section{span(0, 10, true)}},
		{header: "bytes=0-99", size: 10, want: []section{span(0, 10, true)}},
		{header: "bytes=3-99", size: 10, want: []section{span(3, 10, false)}},
		{header: "bytes=3-", size: 10, want: []section{span(3, 10, true)}},
		{header: "bytes=-3", size: 10, want: []section{span(7, 10, false)}},
		{header: "bytes=-30", size: 10, want: []section{span(0, 10, true)}},
		{header: "BYTES = 1-2", size: 10, want: []section{span(1, 3, false)}},
		{header: "bytes=1-2, 5-6 ,-1", size: 10, want: []section{span(1, 3, false), span(5, 7, false), span(9, 10, false)}},
		{header: "bytes=1-2,50-60", size: 10, want: []section{span(1, 3, false)}},
		{header: "lines=1-2", size: 10},
		{header: "bytes=10-", size: 10, beyond: true},
		{header: "bytes=0-", size: 0, beyond: true},
		{header: "bytes=4611686018427387903-", size: 10, beyond: true},
		{header: "bytes=4611686018427387904-", err: true},
		{header: "bytes=99999999999999999999-", err: true},
		{header: "bytes=5-4", err: true},
		{header: "bytes=-0", err: true},
		{header: "bytes=-", err: true},
		{header: "bytes=", err: true},
		{header: "bytes=,", err: true},
		{header: "bytes=a-b", err: true},
		{header: "bytes=+1-2", err: true},
		{header: "bytes=1-2-3", err: true},
		{header: "bytes=--1", err: true},
		{header: "bytes", err: true},
	}
	for _, row := range rows {
		ranges, err := parseRange(row.header)
		if (err != nil) != row.err {
			t.Errorf("%q: %v", row.header, err)
			continue
		}
		got := sections(ranges, row.size)
		if row.beyond && (len(ranges) == 0 || len(got) != 0) {
			t.Errorf("%q of %d: %v, want nothing", row.header, row.size, got)
		}
		if diff := cmp.Diff(row.want, got, cmp.AllowUnexported(section{})); diff != "" {
			t.Errorf("%q of %d (-want +got):\n%s", row.header, row.size, diff)
		}
	}
}

// FuzzRange: whatever the header, what is sent lies within the blob.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-", "bytes=1-2,3-4", "bytes=-5", "bytes=5-1", "lines=1", "bytes=9223372036854775806-9223372036854775806"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		size = max(0, size)
		ranges, err := parseRange(header)
		if err != nil {
			return
		}
		if len(ranges) > maxRanges {
			t.Fatalf("%d ranges", len(ranges))
		}
		for _, r := range ranges {
			if off, n := r.ask(); n == 0 || off < 0 && n >= 0 {
				t.Fatalf("%q: asks for %d bytes from %d", header, n, off)
			}
		}
		for _, s := range sections(ranges, size) {
			if s.Off < 0 || s.Off >= s.End || s.End > size || s.open && s.End != size {
				t.Fatalf("%q of %d: %+v", header, size, s)
			}
		}
	})
}

// FuzzContentRange: what an upstream says is read as it stands or not at all.
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 0-9/*", "bytes 5-4/10", "bytes 0-10/10", "bytes -1-2/3", "bytes */10"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first, last, total, ok := parseContentRange(header)
		if ok && (first < 0 || last < first || total >= 0 && last >= total) {
			t.Fatalf("%q: %d-%d/%d", header, first, last, total)
		}
	})
}
