package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/entrepot/entrepot/cache"
)

// smallDisk mounts a file system of 4 MiB, for which it has to be root.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Skipf("a small file system can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk is promise 5: a disk without room, found out by ENOSPC and not by counting, costs
// nobody a pull, and the next start serves what is there.
func TestFullDisk(t *testing.T) {
	o := cache.Options{Dir: smallDisk(t), PieceSize: piece}
	s := open(t, o)
	small, large := randomBlob(40, 1*mib+5), randomBlob(41, 8*mib)
	mustPull(t, s, small, &source{key: "a", blob: small}, 0, -1)
	settled(t, s)
	for range 2 {
		mustPull(t, s, large, &source{key: "a", blob: large}, 0, -1)
		mustPull(t, s, large, &source{key: "a", blob: large}, 5*mib, 1000)
	}
	settled(t, s)
	if st := s.Stats(); st.Through == 0 || st.DiskErrors == 0 {
		t.Errorf("stats %+v", st)
	}
	filler := filepath.Join(o.Dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 8*mib), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	m := manifestOf(small)
	m.Tag = "v1"
	s.PutManifest(m)
	if raw, err := s.Manifest(m.Digest); err != nil || len(raw) != len(m.Raw) {
		t.Errorf("Manifest = %d bytes, %v", len(raw), err)
	}
	mustPull(t, s, small, &source{key: "gone"}, 0, -1)
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	s = open(t, o) // on the full disk
	mustPull(t, s, small, &source{key: "gone"}, 0, -1)
	mustPull(t, s, large, &source{key: "a", blob: large}, 0, -1)
	eventually(t, func() bool { return s.Stats().IndexLoaded })
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	next := randomBlob(42, 1*mib+5)
	mustPull(t, s, next, &source{key: "a", blob: next}, 0, -1)
	settled(t, s)
	if _, state := s.State(next.digest); state != cache.Here {
		t.Error("with room again, nothing is kept")
	}
}
