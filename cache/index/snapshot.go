package index

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// The snapshot: magic; rows, each a length and a key, a length and a value; a
// length of 0; the number of rows in 8 bytes, big-endian; SHA-256 of all that.
const (
	magic    = "entrepot-index 1\n"
	trailer  = 8 + sha256.Size
	perCheck = 1024 // rows between looks at the context
)

var errDamaged = errors.New("not a whole snapshot")

func (x *Index) snapshotPath() string { return filepath.Join(x.dir, "snapshot") }
func (x *Index) cleanPath() string    { return filepath.Join(x.dir, "clean") }

// load fills badger from the snapshot. False means that ctx ended first.
func (x *Index) load(ctx context.Context) bool {
	start := time.Now()
	clean := x.takeMarker()
	sum, rows, err := x.read(ctx)
	x.dirty = err != nil // what is on disk is of no use
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, fs.ErrNotExist):
		x.o.Log.Debug("index: no snapshot, to be rebuilt from the files")
	case err != nil:
		x.o.Log.Warn("index: snapshot of no use, to be rebuilt from the files", "file", x.snapshotPath(), "err", err)
	default:
		x.sum = sum
		if clean == sum {
			x.stale.Store(0)
		}
		x.o.Log.Info("index: loaded", "rows", rows, "took", time.Since(start), "complete", clean == sum)
	}
	return true
}

// takeMarker returns what Close left in the marker, and removes it: from now
// on the snapshot is older than the files. A marker that can't be removed says nothing.
func (x *Index) takeMarker() string {
	f, _, err := openRegular(x.cleanPath())
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(f, 2*sha256.Size+1))
		err = errors.Join(err, f.Close())
	}
	if err := errors.Join(err, os.Remove(x.cleanPath()), syncDir(x.dir)); err != nil {
		x.o.Log.Warn("index: mark of a clean close can't be read and removed, to be rebuilt from the files", "file", x.cleanPath(), "err", err)
		return ""
	}
	return strings.TrimSpace(string(b))
}

// openRegular opens a file without blocking on whatever has taken its place.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errDamaged
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// read verifies the snapshot and fills badger with its rows. It returns the
// checksum and the number of rows; on an error, some rows may be in badger, all of them right.
func (x *Index) read(ctx context.Context) (sum string, rows int, err error) {
	f, size, err := openRegular(x.snapshotPath())
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if sum, err = verify(ctx, f, size); err != nil {
		return "", 0, err
	}
	if _, err := f.Seek(int64(len(magic)), io.SeekStart); err != nil {
		return "", 0, err
	}
	rows, err = x.readRows(ctx, bufio.NewReaderSize(f, 256<<10))
	return sum, rows, err
}

// verify reads a snapshot once and returns its checksum.
func verify(ctx context.Context, f io.Reader, size int64) (string, error) {
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != magic || size < int64(len(magic)+1+trailer) {
		return "", errDamaged
	}
	h := sha256.New()
	h.Write(head)
	for left := size - int64(len(magic)) - sha256.Size; left > 0; {
		n, err := io.CopyN(h, f, min(left, 4<<20))
		if err = errors.Join(err, ctx.Err()); err != nil {
			return "", err
		}
		left -= n
	}
	sum := make([]byte, sha256.Size)
	if _, err := io.ReadFull(f, sum); err != nil || string(sum) != string(h.Sum(nil)) {
		return "", errDamaged
	}
	return hex.EncodeToString(sum), nil
}

// readRows puts the rows of a verified snapshot into badger. It trusts lengths
// and rows no further than if it were not.
func (x *Index) readRows(ctx context.Context, r *bufio.Reader) (rows int, err error) {
	wb := x.db.NewWriteBatch()
	defer wb.Cancel()
	for ; ; rows++ {
		k, err := readField(r, maxKey)
		if err != nil {
			return rows, err
		}
		if len(k) == 0 {
			break
		}
		v, err := readField(r, maxValue)
		if err == nil && !valid(k, v) {
			err = errDamaged
		}
		if err == nil && rows%perCheck == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return rows, err
		}
		if err := wb.Set(k, v); err != nil {
			return rows, err
		}
	}
	var end [trailer]byte
	_, err = io.ReadFull(r, end[:])
	if _, more := r.ReadByte(); err != nil || more != io.EOF || binary.BigEndian.Uint64(end[:]) != uint64(rows) {
		return rows, errDamaged
	}
	return rows, wb.Flush()
}

func readField(r *bufio.Reader, limit uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, errDamaged
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}

// snapshot writes all rows to disk, if they have changed. A failure is logged
// when it begins, and its end is too; it will be tried again.
func (x *Index) snapshot(ctx context.Context) error {
	if !x.dirty {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var links int
	h := sha256.New()
	err := os.MkdirAll(x.dir, 0o700)
	if err == nil {
		err = x.o.WriteFile(x.snapshotPath(), func(w io.Writer) (err error) {
			links, err = x.dump(ctx, w, h)
			return err
		})
	}
	if err != nil {
		if !x.failing && ctx.Err() == nil {
			x.o.Log.Warn("index: snapshot can't be written, will be tried again", "file", x.snapshotPath(), "err", err)
			x.failing = true
		}
		return fmt.Errorf("index: snapshot: %w", err)
	}
	if x.failing {
		x.o.Log.Info("index: snapshots are written again")
	}
	x.dirty, x.failing, x.sum = false, false, hex.EncodeToString(h.Sum(nil))
	x.sweep(ctx, links)
	return nil
}

// dump writes all rows to w; h is left with the checksum.
func (x *Index) dump(ctx context.Context, w io.Writer, h hash.Hash) (links int, err error) {
	b := bufio.NewWriterSize(io.MultiWriter(w, h), 256<<10)
	b.WriteString(magic) // a bufio.Writer keeps its error until Flush
	rows := uint64(0)
	err = x.db.View(func(tx *badger.Txn) error {
		var buf []byte
		return scan(tx, nil, func(k, v []byte) error {
			if k[0] == linkRow {
				links++
			}
			buf = binary.AppendUvarint(buf[:0], uint64(len(k)))
			buf = append(buf, k...)
			buf = binary.AppendUvarint(buf, uint64(len(v)))
			buf = append(buf, v...)
			if rows++; rows%perCheck == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			_, err := b.Write(buf)
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	b.Write(binary.BigEndian.AppendUint64([]byte{0}, rows))
	if err := b.Flush(); err != nil {
		return 0, err
	}
	_, err = w.Write(h.Sum(nil))
	return links, err
}

// finish leaves a snapshot of all that is known, and says so if nothing is missing in it.
func (x *Index) finish(ctx context.Context) {
	if err := x.snapshot(ctx); err != nil || x.stale.Load() > 0 || x.sum == "" {
		return
	}
	err := x.o.WriteFile(x.cleanPath(), func(w io.Writer) error {
		_, err := io.WriteString(w, x.sum+"\n")
		return err
	})
	if err != nil {
		x.o.Log.Warn("index: no mark of a clean close, the next start rebuilds", "file", x.cleanPath(), "err", err)
	}
}
