package index_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/index"
)

// step changes an index; what it makes visible has to be visible at once, once
// it is written, and after a restart.
type step struct {
	name string
	do   func(*index.Index)
	want content
}

func facts(size, uses int64) map[v1.Hash]index.Facts {
	return map[v1.Hash]index.Facts{digest(1): {Size: size, Uses: uses}}
}

func links(l ...index.Link) map[string][]index.Link { return map[string][]index.Link{"a": l} }

func steps() []step {
	d, other := digest(1), digest(3)
	none, noLinks := map[v1.Hash]index.Facts{}, map[string][]index.Link{}
	both := index.Blob | index.Manifest
	return []step{
		{"touch unknown", func(x *index.Index) { x.Touch(d) }, content{none, noLinks}},
		{"put after touch", func(x *index.Index) { x.Put(d, 7) }, content{facts(7, 0), noLinks}},
		{"touch", func(x *index.Index) { x.Touch(d); x.Touch(d) }, content{facts(7, 2), noLinks}},
		{"put again", func(x *index.Index) { x.Put(d, 8) }, content{facts(8, 2), noLinks}},
		{"delete other", func(x *index.Index) { x.Delete(other) }, content{facts(8, 2), noLinks}},
		{"delete", func(x *index.Index) { x.Delete(d) }, content{none, noLinks}},
		{"touch deleted", func(x *index.Index) { x.Touch(d) }, content{none, noLinks}},
		{"put, delete, put, touch", func(x *index.Index) { x.Put(d, 1); x.Touch(d); x.Delete(d); x.Put(d, 9); x.Touch(d) },
			content{facts(9, 1), noLinks}},
		{"link", func(x *index.Index) { x.Link("a", index.Link{Digest: d, Size: 5, Kind: index.Blob}) },
			content{facts(9, 1), links(index.Link{Digest: d, Size: 5, Kind: index.Blob})}},
		{"kinds add up, size stays", func(x *index.Index) { x.Link("a", index.Link{Digest: d, Kind: index.Manifest}) },
			content{facts(9, 1), links(index.Link{Digest: d, Size: 5, Kind: both})}},
		{"new size", func(x *index.Index) { x.Link("a", index.Link{Digest: d, Size: 6}) },
			content{facts(9, 1), links(index.Link{Digest: d, Size: 6, Kind: both})}},
		{"link survives delete", func(x *index.Index) { x.Delete(d) },
			content{none, links(index.Link{Digest: d, Size: 6, Kind: both})}},
		{"unlink elsewhere", func(x *index.Index) { x.Unlink("a/b", d) },
			content{none, links(index.Link{Digest: d, Size: 6, Kind: both})}},
		{"unlink, link", func(x *index.Index) { x.Unlink("a", d); x.Link("a", index.Link{Digest: d, Kind: index.Blob}) },
			content{none, links(index.Link{Digest: d, Kind: index.Blob})}},
		{"unlink", func(x *index.Index) { x.Unlink("a", d) }, content{none, noLinks}},
	}
}

func TestVisibleAtOnceWrittenAndReopened(t *testing.T) {
	modes := map[string]func(t *testing.T, dir string, x *index.Index) *index.Index{
		"pending": func(_ *testing.T, _ string, x *index.Index) *index.Index { return x },
		"written": func(t *testing.T, _ string, x *index.Index) *index.Index { write(t, x); return x },
		"reopened": func(t *testing.T, dir string, x *index.Index) *index.Index {
			closeIndex(t, x)
			return open(t, dir, asked)
		},
		"killed": func(t *testing.T, dir string, x *index.Index) *index.Index {
			write(t, x)
			return open(t, copied(t, dir), asked)
		},
	}
	for name, then := range modes {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			x := open(t, dir, asked)
			for _, s := range steps() {
				if name == "pending" && s.name == "touch unknown" {
					continue // pending, it counts for the Put that follows
				}
				s.do(x)
				got := then(t, dir, x)
				if diff := cmp.Diff(s.want, contentOf(got, "a", "a/b", "")); diff != "" {
					t.Fatalf("%s: %s", s.name, diff)
				}
				checkSingle(t, got, s)
				if name == "reopened" {
					x = got
				}
			}
		})
	}
}

// checkSingle compares what is asked for by one digest with what is listed.
func checkSingle(t *testing.T, x *index.Index, s step) {
	t.Helper()
	f, ok := x.Facts(digest(1))
	if want, there := s.want.Facts[digest(1)]; ok != there || f.Size != want.Size || f.Uses != want.Uses {
		t.Fatalf("%s: Facts = %v %v", s.name, f, ok)
	}
	if age := time.Since(f.LastUse); ok && (age < -time.Second || age > patience) {
		t.Fatalf("%s: last used %v ago", s.name, age)
	}
	l, ok := x.Linked("a", digest(1))
	var got []index.Link
	if ok {
		got = []index.Link{l}
	}
	if diff := cmp.Diff(s.want.Links["a"], got); diff != "" {
		t.Fatalf("%s: Linked: %s", s.name, diff)
	}
}
