package index

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// run owns badger: it alone writes to it, and closes it.
func (x *Index) run(ctx context.Context) {
	defer close(x.done)
	complete := x.load(ctx)
	close(x.loaded)
	if complete {
		x.serve(ctx)
	}
	last := <-x.closing
	x.flush()
	if complete { // else the snapshot on disk knows more than we do
		x.finish(last)
	}
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.readers.Wait()
	if err := x.db.Close(); err != nil {
		x.o.Log.Warn("index: close", "err", err)
	}
}

// serve writes what is pending, and snapshots, as they are due or asked for.
func (x *Index) serve(ctx context.Context) {
	flush, snapshot := time.NewTicker(x.o.Flush), time.NewTicker(x.o.Snapshot)
	defer flush.Stop()
	defer snapshot.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-flush.C:
			x.flush()
		case <-snapshot.C:
			x.flush()
			_ = x.snapshot(ctx) // has said so, and will try again
		case a := <-x.asks:
			x.flush()
			var err error
			if a.toDisk {
				err = x.snapshot(ctx)
			}
			a.reply <- err
		}
	}
}

// Snapshot writes the index to disk now, if it has changed. It is also done
// every Options.Snapshot and by Close.
func (x *Index) Snapshot(ctx context.Context) error { return x.ask(ctx, true) }

// ask has the owner write what is pending to badger, and to disk too if toDisk is set.
func (x *Index) ask(ctx context.Context, toDisk bool) error {
	a := ask{toDisk, make(chan error, 1)}
	select {
	case x.asks <- a:
	case <-x.stop: // and not done: who asks in the middle of All would wait for the owner, and the owner for All
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-a.reply: // comes, since the owner has taken it
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close writes what is pending to disk and closes the index. It returns when
// that is done, or with ctx's error when ctx ends first: the snapshot is then
// given up, and the next start rebuilds. What could not be written is logged,
// not returned. What is put, deleted or linked once Close has begun may be lost without
// a rebuild: whoever does that is to be stopped first. Close may be called more than once.
func (x *Index) Close(ctx context.Context) error {
	select {
	case x.closing <- ctx:
	default: // somebody else closes
	}
	x.cancel()
	select {
	case <-x.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("index: close: %w", ctx.Err())
	}
}

// flush writes what is pending to badger, in one batch.
func (x *Index) flush() {
	var taken []*layer
	for i := range x.pending.shard {
		if l := x.pending.shard[i].take(); l != nil {
			taken = append(taken, l)
		}
	}
	if len(taken) == 0 {
		return
	}
	if err := x.write(taken); err != nil {
		x.o.Log.Error("index: rows lost; they come back with the next start", "err", err)
		x.stale.Add(1)
	}
	x.dirty = true
	for i := range x.pending.shard {
		x.pending.shard[i].written()
	}
}

// write folds layers into badger's rows. A row is in one layer at most.
func (x *Index) write(layers []*layer) error {
	wb := x.db.NewWriteBatch()
	defer wb.Cancel()
	err := x.db.View(func(tx *badger.Txn) error {
		var errs error
		for _, l := range layers {
			for d, c := range l.facts {
				if key, ok := factsKey(d); ok {
					was, had := factsIn(tx, key)
					f, has := c.apply(was, had)
					errs = errors.Join(errs, set(wb, key, had, has, f.encode))
				}
			}
			for id, c := range l.links {
				if key, ok := linkKey(id.repo, id.digest); ok {
					was, had := linkIn(tx, key, id.digest)
					k, has := c.apply(was, had)
					errs = errors.Join(errs, set(wb, key, had, has, k.encode))
				}
			}
			if errs != nil {
				return errs
			}
		}
		return nil
	})
	return errors.Join(err, wb.Flush())
}

// set writes or deletes a row that there was (had), that there is (has).
func set(wb *badger.WriteBatch, key []byte, had, has bool, encode func() []byte) error {
	switch {
	case has:
		return wb.Set(key, encode())
	case had:
		return wb.Delete(key)
	}
	return nil // no tombstone for what was never there
}

// sweep drops the links of digests that are not here, when there are more
// than enough links: such a digest has to be asked for upstream anyway, which
// tells as much as the link did.
func (x *Index) sweep(ctx context.Context, links int) {
	if links <= x.maxLinks {
		return
	}
	wb := x.db.NewWriteBatch()
	defer wb.Cancel()
	dropped := 0
	err := x.db.View(func(tx *badger.Txn) error {
		return scan(tx, []byte{linkRow}, func(k, _ []byte) error {
			_, d, _ := parseLinkKey(k)
			if key, ok := factsKey(d); ok {
				if _, here := factsIn(tx, key); here || x.pending.facts(d).put {
					return ctx.Err()
				}
			}
			dropped++
			return errors.Join(wb.Delete(append([]byte(nil), k...)), ctx.Err())
		})
	})
	if err = errors.Join(err, wb.Flush()); err != nil {
		x.o.Log.Debug("index: sweep of links ended early", "err", err)
	}
	x.dirty = x.dirty || dropped > 0
	x.maxLinks = max(x.o.MaxLinks, 2*(links-dropped)) // all alive: not again at every snapshot
	x.o.Log.Info("index: dropped links of absent digests", "dropped", dropped, "kept", links-dropped)
}
