package index_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/index"
)

// files is a disk: digests and their sizes.
type files map[v1.Hash]index.Facts

func (f files) files() index.Files {
	return index.Files{
		Blobs: func(yield func(v1.Hash, index.Facts) bool) error {
			for d, facts := range f {
				if !yield(d, facts) {
					break
				}
			}
			return nil
		},
		Links: func(yield func(string, index.Link) bool) error {
			for d := range f {
				if !yield("a", index.Link{Digest: d, Kind: index.Blob}) {
					break
				}
			}
			return nil
		},
		Has: func(d v1.Hash) bool { _, ok := f[d]; return ok },
	}
}

// rebuilt makes x complete: what it knows is what is on disk.
func rebuilt(t testing.TB, x *index.Index) {
	t.Helper()
	disk := files{}
	for d, f := range x.All() {
		disk[d] = f
	}
	how := disk.files()
	how.Links = func(func(string, index.Link) bool) error { return nil }
	if err := x.Rebuild(within(t), how); err != nil {
		t.Fatal(err)
	}
	if x.NeedRebuild() {
		t.Fatal("needs a rebuild after a rebuild")
	}
}

func TestRebuildFollowsTheFiles(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, asked)
	old := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	x.Put(digest(1), 10) // stays, with its use
	x.Touch(digest(1))
	x.Put(digest(2), 20) // not on disk
	x.Link("b", index.Link{Digest: digest(2), Kind: index.Manifest})
	write(t, x)
	disk := files{digest(1): {Size: 10, LastUse: old}, digest(4): {Size: 40, LastUse: old}, digest(5): {Size: 50}}
	if err := x.Rebuild(within(t), disk.files()); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		got := contentOf(x, "b")
		want := content{
			map[v1.Hash]index.Facts{digest(1): {Size: 10, Uses: 1}, digest(4): {Size: 40}, digest(5): {Size: 50}},
			map[string][]index.Link{"b": {{Digest: digest(2), Kind: index.Manifest}}},
		}
		if diff := cmp.Diff(want, got); diff != "" || x.NeedRebuild() {
			t.Fatal(diff, x.NeedRebuild())
		}
		if f, _ := x.Facts(digest(1)); !f.LastUse.After(old) {
			t.Fatalf("later use forgotten: %v", f.LastUse)
		}
		if f, _ := x.Facts(digest(4)); !f.LastUse.Equal(old) {
			t.Fatalf("last use %v, want the file's %v", f.LastUse, old)
		}
		if f, _ := x.Facts(digest(5)); !f.LastUse.IsZero() {
			t.Fatalf("last use %v, want unknown", f.LastUse)
		}
		if n := len(x.Links("a")); n != 3 {
			t.Fatalf("%d links", n)
		}
	}
	check()
	closeIndex(t, x)
	x = open(t, dir, asked)
	check()
}

// What happens to a file while the rebuild looks elsewhere.
func TestRebuildWhileFilesChange(t *testing.T) {
	for _, flushed := range []bool{false, true} {
		x := open(t, t.TempDir(), asked)
		sync := func() {
			if flushed {
				write(t, x)
			}
		}
		x.Put(digest(3), 30) // not on disk until Has has said so
		sync()
		disk := files{digest(1): {Size: 10}, digest(2): {Size: 20}}
		how := disk.files()
		how.Links = func(func(string, index.Link) bool) error {
			delete(disk, digest(1)) // gone after the walk has seen it
			x.Delete(digest(1))
			sync()
			x.Put(digest(1000), 1)
			disk[digest(1000)] = index.Facts{Size: 1}
			return nil
		}
		how.Has = func(d v1.Hash) bool {
			_, ok := disk[d]
			if d == digest(3) && !ok {
				disk[d] = index.Facts{Size: 30}
				x.Put(d, 30)
			}
			return ok
		}
		if err := x.Rebuild(within(t), how); err != nil {
			t.Fatal(err)
		}
		want := map[v1.Hash]index.Facts{digest(2): {Size: 20}, digest(3): {Size: 30}, digest(1000): {Size: 1}}
		if diff := cmp.Diff(want, contentOf(x).Facts); diff != "" {
			t.Fatalf("flushed %v: %s", flushed, diff)
		}
	}
}

func TestRebuildEndsEarly(t *testing.T) {
	broken := errors.New("walk broken")
	many := files{}
	for i := range 2500 {
		many[digest(i)] = index.Facts{Size: 1}
	}
	for name, tc := range map[string]struct {
		want   error
		change func(h *index.Files, cancel func(), x *index.Index)
	}{
		"blobs can't be walked": {broken, func(h *index.Files, _ func(), _ *index.Index) {
			h.Blobs = func(func(v1.Hash, index.Facts) bool) error { return broken }
		}},
		"links can't be walked": {broken, func(h *index.Files, _ func(), _ *index.Index) {
			h.Links = func(func(string, index.Link) bool) error { return broken }
		}},
		"cancelled": {context.Canceled, func(h *index.Files, cancel func(), _ *index.Index) {
			h.Has = func(v1.Hash) bool { cancel(); return true }
		}},
		"closed": {index.ErrClosed, func(h *index.Files, _ func(), x *index.Index) {
			var once sync.Once
			h.Has = func(v1.Hash) bool { once.Do(func() { beginClose(t, x) }); return true }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			x := open(t, dir, asked)
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			how := many.files()
			tc.change(&how, cancel, x)
			if err := x.Rebuild(ctx, how); !errors.Is(err, tc.want) {
				t.Fatalf("%v, want %v", err, tc.want)
			}
			closeIndex(t, x)
			if y := open(t, dir, asked); !x.NeedRebuild() || !y.NeedRebuild() {
				t.Fatal("says it is complete")
			}
		})
	}
}

// beginClose returns once a Close has begun that can't end yet.
func beginClose(t *testing.T, x *index.Index) {
	go func() { _ = x.Close(context.Background()) }()
	ctx := within(t)
	for {
		if err := x.Snapshot(ctx); errors.Is(err, index.ErrClosed) {
			return
		} else if ctx.Err() != nil {
			t.Error("asking the index in the middle of All waits for All")
			return
		}
	}
}

func TestCloseInTheMiddleOfAll(t *testing.T) {
	x := open(t, t.TempDir(), asked)
	fill(x, 50)
	write(t, x)
	n := 0
	for d := range x.All() {
		if n++; n == 1 {
			beginClose(t, x)
		}
		x.Facts(d)
	}
	if n == 0 {
		t.Fatal("no rows")
	}
	closeIndex(t, x)
}
