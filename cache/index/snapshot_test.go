package index_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/index"
)

// closed returns what a clean close leaves of n digests.
func closed(t testing.TB, n int) (snapshot, marker []byte, want content) {
	t.Helper()
	dir := t.TempDir()
	x := open(t, dir, asked)
	fill(x, n)
	rebuilt(t, x)
	want = contentOf(x, "a", "a/b")
	closeIndex(t, x)
	return read(t, filepath.Join(dir, "snapshot")), read(t, filepath.Join(dir, "clean")), want
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// folder returns a folder of an index with this content.
func folder(t testing.TB, snapshot, marker []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range map[string][]byte{"snapshot": snapshot, "clean": marker} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// checkDamaged opens a folder whose snapshot is damaged: it has no rows, says
// so, and works: after a rebuild it is well again.
func checkDamaged(t *testing.T, snapshot, marker []byte) {
	t.Helper()
	dir := folder(t, snapshot, marker)
	x := open(t, dir, asked)
	if !x.NeedRebuild() {
		t.Error("damaged, but says it is complete")
	}
	none := content{map[v1.Hash]index.Facts{}, map[string][]index.Link{}}
	if diff := cmp.Diff(none, contentOf(x, "a", "a/b")); diff != "" {
		t.Error(diff)
	}
	fill(x, 5)
	rebuilt(t, x)
	closeIndex(t, x)
	if x = open(t, dir, asked); x.NeedRebuild() || len(contentOf(x).Facts) != 5 {
		t.Error("not well again after a rebuild")
	}
	closeIndex(t, x)
}

func TestSnapshotTruncated(t *testing.T) {
	whole, marker, _ := closed(t, 200)
	n := len(whole)
	cuts := []int{0, 1, 16, 17, 18, 19, 50, n - 1, n - 2, n - 32, n - 33, n - 40, n - 41}
	for i := 1; i < 9; i++ {
		cuts = append(cuts, n*i/9)
	}
	for _, cut := range cuts {
		t.Run(strconv.Itoa(cut), func(t *testing.T) { checkDamaged(t, whole[:cut], marker) })
	}
}

func TestSnapshotWithOneByteDamaged(t *testing.T) {
	whole, marker, _ := closed(t, 200)
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		at, bit := random.IntN(len(whole)), byte(1)<<random.IntN(8)
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			damaged := bytes.Clone(whole)
			damaged[at] ^= bit
			checkDamaged(t, damaged, marker)
		})
	}
}

func TestSnapshotWithMore(t *testing.T) {
	whole, marker, _ := closed(t, 20)
	checkDamaged(t, append(bytes.Clone(whole), 0), marker)
	checkDamaged(t, append(bytes.Clone(whole), whole...), marker)
	body := append(bytes.Clone(whole[:len(whole)-sha256.Size]), 0)
	sealed, sum := seal(body) // the checksum is right, but not what follows the count
	x := open(t, folder(t, sealed, sum), asked)
	if !x.NeedRebuild() {
		t.Error("says it is complete")
	}
}

// seal returns body with its checksum, and the marker for it.
func seal(body []byte) (snapshot, marker []byte) {
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...), []byte(hex.EncodeToString(sum[:]) + "\n")
}

func TestMarkerDamaged(t *testing.T) {
	whole, marker, want := closed(t, 20)
	for name, m := range map[string][]byte{
		"empty": nil, "cut": marker[:10], "more": append([]byte("0"), marker...), "another": bytes.Repeat([]byte("a"), 65),
		"huge": bytes.Repeat([]byte("a"), 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			x := open(t, folder(t, whole, m), asked)
			if !x.NeedRebuild() {
				t.Error("says it is complete")
			}
			if diff := cmp.Diff(want, contentOf(x, "a", "a/b")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever stands where the files of the index should be: it opens, works and
// closes, and nothing waits for a pipe.
func TestSomethingElseInPlace(t *testing.T) {
	place := map[string]func(path string) error{
		"pipe":   func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"folder": func(p string) error { return os.MkdirAll(filepath.Join(p, "full"), 0o700) },
		"loop":   func(p string) error { return os.Symlink(p, p) },
		"file":   func(p string) error { return os.WriteFile(p, []byte("garbage"), 0o600) },
	}
	for _, where := range []string{"", "snapshot", "snapshot.tmp", "clean", "clean.tmp"} {
		for what, put := range place {
			t.Run(what+" at "+where, func(t *testing.T) {
				dir := t.TempDir()
				if where == "" {
					dir = filepath.Join(dir, "index")
				}
				if err := put(filepath.Join(dir, where)); err != nil {
					t.Fatal(err)
				}
				x := open(t, dir, asked)
				if !x.NeedRebuild() {
					t.Error("says it is complete")
				}
				fill(x, 5)
				rebuilt(t, x)
				closeIndex(t, x)
				if x = open(t, dir, asked); !x.NeedRebuild() && len(contentOf(x).Facts) != 5 {
					t.Error("incomplete, but does not say so")
				}
			})
		}
	}
}

func TestFolderDeleted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "index")
	x := open(t, dir, asked)
	fill(x, 20)
	rebuilt(t, x)
	write(t, x)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	x.Touch(digest(1))
	closeIndex(t, x) // makes it anew
	if x = open(t, dir, asked); x.NeedRebuild() || len(contentOf(x).Facts) != 20 {
		t.Error("not written anew")
	}
}

// Close that may not wait gives the snapshot up; the one before stays.
func TestCloseGivenUp(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, asked)
	fill(x, 100)
	rebuilt(t, x)
	write(t, x)
	fill(x, 200)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = x.Close(ctx) // its error depends on who is first to end
	closeIndex(t, x)
	if x = open(t, dir, asked); !x.NeedRebuild() || len(contentOf(x).Facts) != 100 {
		t.Fatal("written although there was no time")
	}
}

// Close while the snapshot is being loaded leaves it as it is.
func TestCloseWhileLoading(t *testing.T) {
	whole, marker, want := closed(t, 3000)
	for range 4 {
		dir := folder(t, whole, marker)
		x, err := index.Open(dir, asked)
		if err != nil {
			t.Fatal(err)
		}
		x.Put(digest(1), 1)
		closeIndex(t, x)
		<-x.Loaded()
		y := open(t, dir, asked)
		if n := len(contentOf(y).Facts); n != len(want.Facts) {
			t.Fatalf("%d rows of %d", n, len(want.Facts))
		}
		closeIndex(t, y)
	}
}

// FuzzSnapshot opens arbitrary snapshots, with a right checksum (sealed) or not.
// Coverage of badger differs from run to run, so run it with -fuzzminimizetime 1x.
func FuzzSnapshot(f *testing.F) {
	whole, marker, _ := closed(f, 6)
	f.Add(whole, false)
	f.Add(whole[:len(whole)-sha256.Size], true)
	f.Add(whole[:60], true)
	f.Add(append(bytes.Clone(whole[:17]), 0, 0, 0, 0, 0, 0, 0, 0, 0), true)
	f.Add(append(bytes.Clone(whole[:17]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		m := marker
		if sealed {
			b, m = seal(b)
		}
		dir := folder(t, b, m)
		x := open(t, dir, asked)
		complete, got := !x.NeedRebuild(), contentOf(x, "a", "a/b")
		if !sealed && complete && !bytes.Equal(b, whole) {
			t.Fatal("trusts what it did not write")
		}
		closeIndex(t, x)
		x = open(t, dir, asked)
		if diff := cmp.Diff(got, contentOf(x, "a", "a/b")); diff != "" || complete == x.NeedRebuild() {
			t.Fatalf("not what it was: complete %v, %v; %s", complete, !x.NeedRebuild(), diff)
		}
		closeIndex(t, x)
	})
}
