package index

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile replaces path by what write writes: into path.tmp, synced, renamed,
// and the folder synced. On an error path is as it was and path.tmp is gone, unless
// it is the folder that could not be synced: then path may be either after a crash.
// One caller at a time per path.
func WriteFile(path string, write func(io.Writer) error) error {
	temp := path + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // follows no link, waits for no pipe
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes renames and removals in a folder last.
func syncDir(path string) error {
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0) // waits for no pipe
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
