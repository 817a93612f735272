package cache

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// files is the folder of a store: the only place that names paths and makes
// the system calls that durability depends on.
//
// The order for content is: write, fdatasync, rename into blobs/, sync of the
// folder. What has a name under blobs/ was verified and is whole.
type files struct {
	root   string
	boot   [16]byte
	folder *folder
}

// folder says whether the files are ours to change. What changes names asks it, so that what ends late
// does not change the files of the next process.
type folder struct {
	mu       sync.Mutex
	released bool
}

var errReleased = errors.New("the folder belongs to another process now")

// change runs f, one at a time, unless the folder is released.
func (o *folder) change(f func() error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.released {
		return errReleased
	}
	return f()
}

// release ends all changes, for good.
func (o *folder) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.released = true
}

// layout makes the folders that are missing; the index sees to its own.
func (x files) layout() error {
	for _, d := range []string{"blobs/sha256", "blobs/sha512", "fills", "refs"} {
		if err := os.MkdirAll(filepath.Join(x.root, d), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (x files) refs() string  { return filepath.Join(x.root, "refs") }
func (x files) index() string { return filepath.Join(x.root, "index") }

func (x files) blobPath(d v1.Hash) string { return filepath.Join(x.root, "blobs", d.Algorithm, d.Hex) }

func (x files) fillDir(d v1.Hash) string {
	return filepath.Join(x.root, "fills", d.Algorithm+"-"+d.Hex)
}

func (x files) fillData(d v1.Hash) string { return filepath.Join(x.fillDir(d), "data") }

// openBlob opens verified content; fs.ErrNotExist if it is not here.
func (x files) openBlob(d v1.Hash) (*os.File, int64, error) {
	f, err := os.Open(x.blobPath(d))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file: %w", f.Name(), fs.ErrInvalid)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func (x files) blobSize(d v1.Hash) (int64, bool) {
	info, err := os.Lstat(x.blobPath(d))
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// openFill opens the data and the record of a fill, new or left by an earlier one.
func (x files) openFill(d v1.Hash) (data *os.File, l *ledger, err error) {
	err = x.folder.change(func() (err error) {
		if err := os.MkdirAll(x.fillDir(d), 0o700); err != nil {
			return err
		}
		if data, err = os.OpenFile(x.fillData(d), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return err
		}
		if l, err = openLedger(x.fillDir(d), x.boot); err != nil {
			return errors.Join(err, data.Close())
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if have := l.spans(); len(have) > 0 {
		if info, err := data.Stat(); err != nil || info.Size() < have[len(have)-1].End {
			l.size, l.bits = -1, nil // the record outlived its data
		}
	}
	return data, l, nil
}

// commit gives verified content of size bytes its name. It reports whether it was not there before,
// also when there is an error: the name may then not outlive a loss of power.
func (x files) commit(d v1.Hash, data *os.File, size int64) (fresh bool, err error) {
	if err := data.Truncate(size); err != nil { // what lies behind was not verified
		return false, err
	}
	if err := datasync(data); err != nil {
		return false, err
	}
	fresh, err = x.name(x.fillData(d), d)
	return fresh, errors.Join(err, x.discardFill(d))
}

// name moves a synced file to its place under blobs/.
func (x files) name(from string, d v1.Hash) (fresh bool, err error) {
	to := x.blobPath(d)
	err = x.folder.change(func() error {
		_, there := x.blobSize(d)
		fresh = !there
		return os.Rename(from, to)
	})
	if err != nil {
		return false, err
	}
	return fresh, syncDir(filepath.Dir(to))
}

func (x files) discardFill(d v1.Hash) error {
	return x.folder.change(func() error { return os.RemoveAll(x.fillDir(d)) })
}

// syncFill makes what has landed of a fill count after a boot too: data first, then its record.
func (x files) syncFill(data *os.File, l *ledger) error {
	if l.size < 0 {
		return nil
	}
	if err := datasync(data); err != nil {
		return fmt.Errorf("sync a fill: %w", err)
	}
	return x.folder.change(l.writeSynced)
}

// writeBlob stores small verified content in one go, with the result of commit.
func (x files) writeBlob(d v1.Hash, raw []byte) (fresh bool, err error) {
	dir, err := os.MkdirTemp(filepath.Join(x.root, "fills"), "put-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tmp := filepath.Join(dir, "data")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = datasync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	return x.name(tmp, d)
}

// readSmall reads content of at most most bytes.
func (x files) readSmall(d v1.Hash, most int64) ([]byte, error) {
	f, size, err := x.openBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > most {
		return nil, fmt.Errorf("%s has %d bytes, too many for a manifest: %w", d, size, fs.ErrNotExist)
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// walkBlobs calls fn for all that has a name under blobs/, until it says no.
func (x files) walkBlobs(fn func(d v1.Hash, info fs.FileInfo) bool) error {
	for _, alg := range []string{"sha256", "sha512"} {
		err := readDir(filepath.Join(x.root, "blobs", alg), func(e fs.DirEntry) bool {
			d := v1.Hash{Algorithm: alg, Hex: e.Name()}
			info, err := e.Info()
			return err != nil || !info.Mode().IsRegular() || !validDigest(d) || fn(d, info)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// walkFills calls fn for each fill left on disk with the bytes that it takes.
// What no fill can go on from is removed.
func (x files) walkFills(fn func(d v1.Hash, taken int64)) error {
	root := filepath.Join(x.root, "fills")
	return readDir(root, func(e fs.DirEntry) bool {
		alg, hx, _ := strings.Cut(e.Name(), "-")
		d := v1.Hash{Algorithm: alg, Hex: hx}
		info, err := os.Lstat(filepath.Join(root, e.Name(), "data"))
		switch {
		case err == nil && validDigest(d):
			fn(d, allocated(info))
		case validDigest(d) || alg == "put": // ours
			_ = os.RemoveAll(filepath.Join(root, e.Name()))
		}
		return true
	})
}

// readDir calls fn for each entry until it says no, in batches so that memory stays bounded.
func readDir(dir string, fn func(fs.DirEntry) bool) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(512)
		for _, e := range entries {
			if !fn(e) {
				return nil
			}
		}
		if len(entries) == 0 || err != nil {
			if errors.Is(err, fs.ErrClosed) || len(entries) == 0 {
				return nil
			}
			return err
		}
	}
}

// writeFile replaces path by raw so that after a crash it is the old or the new.
func writeFile(path string, raw []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = datasync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func newHash(d v1.Hash) (hash.Hash, error) {
	switch d.Algorithm {
	case "sha256":
		return sha256.New(), nil
	case "sha512":
		return sha512.New(), nil
	default:
		return nil, fmt.Errorf("digest algorithm %q is not supported; sha256 and sha512 are", d.Algorithm)
	}
}

func matches(h hash.Hash, d v1.Hash) bool { return hex.EncodeToString(h.Sum(nil)) == d.Hex }

// Matches reports whether raw has digest d.
func Matches(d v1.Hash, raw []byte) bool {
	h, err := newHash(d)
	if err != nil {
		return false
	}
	h.Write(raw)
	return matches(h, d)
}

// validDigest keeps names that could leave the folder out of it.
func validDigest(d v1.Hash) bool {
	want := map[string]int{"sha256": 64, "sha512": 128}[d.Algorithm]
	if want == 0 || len(d.Hex) != want {
		return false
	}
	return strings.Trim(d.Hex, "0123456789abcdef") == ""
}
