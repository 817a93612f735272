package index_test

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/entrepot/entrepot/cache/index"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// asked flushes and writes when it is asked to, not by time.
var asked = index.Options{Flush: time.Hour, Snapshot: time.Hour}

// digest number n; every third is a sha512.
func digest(n int) v1.Hash {
	if n%3 == 0 {
		sum := sha512.Sum512(fmt.Append(nil, n))
		return v1.Hash{Algorithm: "sha512", Hex: hex.EncodeToString(sum[:])}
	}
	sum := sha256.Sum256(fmt.Append(nil, n))
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// open opens dir, waits until it is loaded, and closes it with the test.
func open(t testing.TB, dir string, o index.Options) *index.Index {
	t.Helper()
	x, err := index.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIndex(t, x) })
	select {
	case <-x.Loaded():
	case <-time.After(patience):
		t.Fatal("not loaded")
	}
	return x
}

func closeIndex(t testing.TB, x *index.Index) {
	t.Helper()
	if err := x.Close(within(t)); err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func write(t testing.TB, x *index.Index) {
	t.Helper()
	if err := x.Snapshot(within(t)); err != nil {
		t.Fatal(err)
	}
}

// copied returns a copy of the folder of an index: what a killed daemon leaves.
func copied(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "index")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// content is all that an index tells, without times.
type content struct {
	Facts map[v1.Hash]index.Facts
	Links map[string][]index.Link
}

func contentOf(x *index.Index, repos ...string) content {
	c := content{map[v1.Hash]index.Facts{}, map[string][]index.Link{}}
	for d, f := range x.All() {
		f.LastUse = time.Time{}
		c.Facts[d] = f
	}
	for _, repo := range repos {
		if l := x.Links(repo); len(l) > 0 {
			c.Links[repo] = l
		}
	}
	return c
}

// fill puts n digests with a use each, and links them to a and to a/b.
func fill(x *index.Index, n int) {
	for i := range n {
		x.Put(digest(i), int64(1000+i))
		x.Touch(digest(i))
		x.Link("a", index.Link{Digest: digest(i), Size: int64(i), Kind: index.Blob})
		x.Link("a/b", index.Link{Digest: digest(i), Kind: index.Manifest})
	}
}

func TestCloseThenOpenIsComplete(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	x := open(t, dir, asked)
	if !x.NeedRebuild() {
		t.Fatal("an index without a snapshot says it is complete")
	}
	fill(x, 500)
	rebuilt(t, x)
	want := contentOf(x, "a", "a/b")
	for range 3 { // nothing changes in the later rounds
		closeIndex(t, x)
		x = open(t, dir, asked)
		if x.NeedRebuild() {
			t.Fatal("needs a rebuild after a clean close")
		}
		if diff := cmp.Diff(want, contentOf(x, "a", "a/b")); diff != "" {
			t.Fatal(diff)
		}
	}
	f, _ := x.Facts(digest(2))
	if f.LastUse.IsZero() || time.Since(f.LastUse) > patience {
		t.Fatalf("last use %v", f.LastUse)
	}
}

func TestEmptyIsCompleteToo(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, asked)
	rebuilt(t, x)
	closeIndex(t, x)
	if x = open(t, dir, asked); x.NeedRebuild() {
		t.Fatal("needs a rebuild although there is nothing")
	}
}

func TestKilledLoadsAndAsksForRebuild(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, asked)
	fill(x, 100)
	rebuilt(t, x)
	closeIndex(t, x)
	x = open(t, dir, asked)
	for name, change := range map[string]func(){
		"nothing changed":         func() {},
		"changed, not written":    func() { x.Put(digest(1000), 1) },
		"written, not yet closed": func() { write(t, x) },
	} {
		t.Run(name, func(t *testing.T) {
			change()
			y := open(t, copied(t, dir), asked)
			if !y.NeedRebuild() {
				t.Fatal("says it is complete")
			}
			if n := len(contentOf(y).Facts); n < 100 {
				t.Fatalf("%d rows", n)
			}
		})
	}
}

func TestInvalidIsIgnored(t *testing.T) {
	x := open(t, t.TempDir(), asked)
	long := strings.Repeat("r", 1025)
	for _, d := range []v1.Hash{
		{}, {Algorithm: "sha256"}, {Algorithm: "md5", Hex: strings.Repeat("a", 32)},
		{Algorithm: "sha256", Hex: strings.Repeat("g", 64)}, {Algorithm: "sha256", Hex: strings.Repeat("A", 64)},
		{Algorithm: "sha512", Hex: digest(1).Hex},
	} {
		x.Put(d, 1)
		x.Touch(d)
		x.Link("a", index.Link{Digest: d})
		x.Unlink("a", d)
	}
	x.Link(long, index.Link{Digest: digest(1)})
	x.Link(long[1:], index.Link{Digest: digest(1), Kind: index.Blob})
	want := content{map[v1.Hash]index.Facts{}, map[string][]index.Link{long[1:]: {{Digest: digest(1), Kind: index.Blob}}}}
	for range 2 {
		if diff := cmp.Diff(want, contentOf(x, "a", long, long[1:])); diff != "" {
			t.Fatal(diff)
		}
		write(t, x)
	}
}

func TestMaxLinks(t *testing.T) {
	dir := t.TempDir()
	o := asked
	o.MaxLinks = 50
	x := open(t, dir, o)
	fill(x, 20)
	for i := range 100 {
		x.Link("absent", index.Link{Digest: digest(1000 + i)})
	}
	want := maps.Clone(contentOf(x, "a", "a/b").Links)
	write(t, x)
	for range 2 {
		if diff := cmp.Diff(want, contentOf(x, "a", "a/b", "absent").Links); diff != "" {
			t.Fatal(diff)
		}
		closeIndex(t, x)
		x = open(t, dir, o)
	}
	fill(x, 60) // all here: kept, beyond the bound
	write(t, x)
	write(t, x)
	if n := len(x.Links("a")) + len(x.Links("a/b")); n != 120 {
		t.Fatalf("%d links of digests that are here, want 120", n)
	}
}

func TestEarlyEndOfAll(t *testing.T) {
	x := open(t, t.TempDir(), asked)
	for range 2 { // pending, then written
		fill(x, 10)
		n := 0
		for range x.All() {
			if n++; n == 3 {
				break
			}
		}
		if n != 3 {
			t.Fatalf("%d rows", n)
		}
		write(t, x)
	}
}

func TestClosed(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, asked)
	fill(x, 10)
	write(t, x)
	closeIndex(t, x)
	closeIndex(t, x)
	x.Put(digest(100), 1)
	if err := x.Snapshot(within(t)); !errors.Is(err, index.ErrClosed) {
		t.Fatalf("Snapshot: %v", err)
	}
	if err := x.Rebuild(within(t), files{}.files()); !errors.Is(err, index.ErrClosed) {
		t.Fatalf("Rebuild: %v", err)
	}
	if _, ok := x.Facts(digest(1)); ok || len(x.Links("a")) > 0 {
		t.Fatal("tells what it knew")
	}
}
