package index_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot/entrepot/cache/index"
)

// disk is a WriteFile that fails: with err, after so many bytes.
type disk struct {
	err   error
	after int
}

func (d *disk) WriteFile(path string, write func(io.Writer) error) error {
	return index.WriteFile(path, func(w io.Writer) error {
		if d.err == nil {
			return write(w)
		}
		return write(&full{w, d.after, d.err})
	})
}

type full struct {
	w    io.Writer
	left int
	err  error
}

func (f *full) Write(b []byte) (int, error) {
	if len(b) <= f.left {
		f.left -= len(b)
		return f.w.Write(b)
	}
	n, err := f.w.Write(b[:f.left])
	f.left = 0
	return n, errors.Join(err, f.err)
}

// A disk that is full, broken or read-only leaves the old snapshot; once it is
// well again, all is written.
func TestDiskThatFails(t *testing.T) {
	whole, _, _ := closed(t, 150)
	for name, bad := range map[string]disk{
		"full": {syscall.ENOSPC, 0}, "full half way": {syscall.ENOSPC, 5000}, "full at the checksum": {syscall.ENOSPC, len(whole) - 16},
		"broken": {syscall.EIO, 0}, "read-only": {syscall.EROFS, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir, d := t.TempDir(), &disk{}
			o := asked
			o.WriteFile = d.WriteFile
			x := open(t, dir, o)
			fill(x, 100)
			rebuilt(t, x)
			write(t, x)
			old := read(t, filepath.Join(dir, "snapshot"))

			*d = bad
			fill(x, 150)
			if err := x.Snapshot(within(t)); !errors.Is(err, bad.err) {
				t.Fatalf("Snapshot: %v", err)
			}
			if !bytes.Equal(old, read(t, filepath.Join(dir, "snapshot"))) {
				t.Fatal("the old snapshot is gone")
			}
			if _, err := os.Stat(filepath.Join(dir, "snapshot.tmp")); !errors.Is(err, fs.ErrNotExist) {
				t.Fatal("half a snapshot is left")
			}
			y := open(t, copied(t, dir), o)
			if n := len(contentOf(y).Facts); n != 100 || !y.NeedRebuild() {
				t.Fatalf("%d rows", n)
			}
			want := contentOf(x, "a", "a/b")
			if len(want.Facts) != 150 {
				t.Fatal("rows lost in memory")
			}
			*d = disk{}
			closeIndex(t, x)
			x = open(t, dir, o)
			if diff := cmp.Diff(want, contentOf(x, "a", "a/b")); diff != "" || x.NeedRebuild() {
				t.Fatal(x.NeedRebuild(), diff)
			}
		})
	}
}

func TestCloseOnBadDisk(t *testing.T) {
	dir, d := t.TempDir(), &disk{}
	o := asked
	o.WriteFile = d.WriteFile
	x := open(t, dir, o)
	fill(x, 100)
	rebuilt(t, x)
	closeIndex(t, x)
	x = open(t, dir, o)
	*d = disk{err: syscall.ENOSPC}
	x.Put(digest(1000), 1)
	closeIndex(t, x) // logged, no error
	if x = open(t, dir, o); !x.NeedRebuild() || len(contentOf(x).Facts) != 100 {
		t.Fatal("a change that was not written, and no rebuild")
	}
}
