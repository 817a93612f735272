//go:build !linux

package cache

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// datasync brings the content of f to the disk.
func datasync(f *os.File) error { return f.Sync() }

// diskSpace returns the size of dir's file system and the bytes free to us.
func diskSpace(dir string) (total, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), nil
}

// allocated is what a file takes of the disk: sparse files less than their length.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// bootID is not known here: after a restart only what was synced counts.
func bootID() (id [16]byte) { return id }
