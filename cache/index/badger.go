package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// openBadger opens an empty badger in memory, small. In memory there is no value log and no
// file; values must stay below ValueThreshold (ours are below 64 bytes). Without compression it wants no block cache.
func openBadger(log *slog.Logger) (*badger.DB, error) {
	o := badger.DefaultOptions("").
		WithInMemory(true).
		WithMemTableSize(8 << 20).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithLogger(logger{log})
	db, err := badger.Open(o)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return db, nil
}

// logger hands badger's words on; its chatter is for those who debug.
type logger struct{ log *slog.Logger }

func (l logger) Errorf(f string, a ...any)   { l.write(slog.LevelError, f, a) }
func (l logger) Warningf(f string, a ...any) { l.write(slog.LevelWarn, f, a) }
func (l logger) Infof(f string, a ...any)    { l.write(slog.LevelDebug, f, a) }
func (l logger) Debugf(f string, a ...any)   { l.write(slog.LevelDebug, f, a) }

func (l logger) write(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "index: "+strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

// view runs fn on badger's rows, unless the index is closed; badger stays open until fn returns.
func (x *Index) view(fn func(*badger.Txn) error) error {
	if !x.enter() {
		return ErrClosed
	}
	defer x.readers.Done()
	return x.db.View(fn)
}

func (x *Index) enter() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	x.readers.Add(1)
	return true
}

// get calls fn with the value under key; false if there is none.
func get(tx *badger.Txn, key []byte, fn func(v []byte) bool) bool {
	item, err := tx.Get(key)
	if err != nil {
		return false
	}
	found := false
	err = item.Value(func(v []byte) error {
		found = fn(v)
		return nil
	})
	return found && err == nil
}

// errStop ends a scan early.
var errStop = errors.New("stop")

// scan calls fn with all rows whose keys begin with prefix, in order of the
// keys, until it returns an error. Key and value are valid during the call.
func scan(tx *badger.Txn, prefix []byte, fn func(k, v []byte) error) error {
	o := badger.DefaultIteratorOptions
	o.Prefix = prefix
	o.PrefetchValues = false // they are in memory; it would start a goroutine for each
	it := tx.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if err := item.Value(func(v []byte) error { return fn(item.Key(), v) }); err != nil {
			return err
		}
	}
	return nil
}
