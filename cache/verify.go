package cache

import (
	"context"
	"errors"
	"io"
)

// verify walks the contiguous front with a hash, and settles the fill when it reaches the end.
func (f *fill) verify(ctx context.Context) {
	w := &waiter{wake: make(chan struct{}, 1)}
	f.mu.Lock()
	f.waiters = append(f.waiters, w)
	f.mu.Unlock()
	for attempt := 1; ; attempt++ {
		ok, err := f.hashFront(ctx, w)
		if err != nil {
			f.fail(err)
			return
		}
		f.mu.Lock()
		if ok {
			f.settle(verified, nil)
		} else {
			f.mismatch(attempt)
		}
		over := f.phase != filling
		f.mu.Unlock()
		if over {
			return
		}
		if err := f.empty(); err != nil {
			f.store.diskTrouble("discard a fill", err)
			f.fail(errNoRoom)
			return
		}
		f.mu.Lock()
		f.landed, f.taken, f.single, f.bad = nil, nil, true, false
		f.size, f.assumed, f.begun = -1, false, false // even that may have been wrong
		f.mu.Unlock()
		f.wakeOwner()
	}
}

// mismatch discards what has landed. The first time the blob is asked for once
// more in a single stream; readers that have been sent a byte are cut. Called with mu held.
func (f *fill) mismatch(attempt int) {
	f.store.count.mismatches.Add(1)
	f.store.log.Warn("content does not match its digest", "digest", f.digest.String(), "attempt", attempt, "sources", len(f.sources))
	for _, s := range f.sources {
		s.suspect, s.part = s.part, false
	}
	if f.inherited { // others' readers hold it against what they have sent: it is not to be made right under them
		f.settle(failed, errNoRoom)
		return
	}
	if attempt > 1 {
		f.settle(failed, ErrDamaged)
		return
	}
	for _, r := range f.readers {
		if r.sent {
			r.cut = ErrDamaged
		}
	}
	f.bad = true // nothing is planned and nothing is read until the file is empty
	f.ledger.clear()
	f.wakeAll()
}

// empty discards what has landed, its record first.
func (f *fill) empty() error {
	if err := f.ledger.wipe(); err != nil {
		return err
	}
	if err := f.file.Truncate(0); err != nil {
		return err
	}
	f.store.release(f, f.reserved.Load())
	return nil
}

// hashFront hashes the file from its start as bytes land, to the end of the blob.
func (f *fill) hashFront(ctx context.Context, w *waiter) (bool, error) {
	h, err := newHash(f.digest)
	if err != nil {
		return false, err
	}
	buf := f.store.buffers.Get().(*[]byte)
	defer f.store.buffers.Put(buf)
	var pos int64
	for {
		end, whole, err := f.front(ctx, w, pos)
		if err != nil {
			return false, err
		}
		for pos < end {
			n, err := f.file.ReadAt((*buf)[:min(int64(len(*buf)), end-pos)], pos)
			h.Write((*buf)[:n])
			pos += int64(n)
			if err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
				f.store.diskTrouble("read back a fill", err)
				return false, errNoRoom
			}
		}
		if whole {
			return matches(h, f.digest), nil
		}
	}
}

// front waits until bytes beyond pos are contiguous from the start; whole says
// that they reach the end and nothing is being written any more.
func (f *fill) front(ctx context.Context, w *waiter, pos int64) (end int64, whole bool, err error) {
	for {
		f.mu.Lock()
		w.pos = pos
		end = f.landed.from(0)
		whole = f.size >= 0 && end >= f.size && f.writers == 0
		if f.phase == failed {
			err = f.err
		}
		f.mu.Unlock()
		if err != nil || whole || end > pos {
			return end, whole, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return 0, false, ErrClosed
		}
	}
}
