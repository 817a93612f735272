package cache

import (
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// datasync brings the content of f to the disk.
func datasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// diskSpace returns the size of dir's file system and the bytes free to us.
func diskSpace(dir string) (total, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// allocated is what a file takes of the disk: sparse files less than their length.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// bootID names this boot of the machine.
func bootID() (id [16]byte) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil {
		copy(id[:], strings.ReplaceAll(strings.TrimSpace(string(raw)), "-", ""))
	}
	return id
}
