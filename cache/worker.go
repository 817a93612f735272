package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Reasons for a request to end that are nobody's failure.
var (
	errEnded    = errors.New("cache: the fill has ended")
	errParked   = errors.New("cache: the fill is parked")
	errNoRanges = errors.New("cache: the source ignores ranges")
	errTaken    = errors.New("cache: another answer brings this already")
)

// fetch carries out one request.
func (f *fill) fetch(ctx context.Context, r run) {
	start := time.Now()
	err := f.transfer(ctx, &r)
	f.finish(ctx, &r, time.Since(start), err)
}

func (f *fill) transfer(ctx context.Context, r *run) error {
	part, err := r.from.Get(ctx, f.digest, r.off, r.n)
	if err != nil {
		return err
	}
	defer part.Body.Close()
	if err := f.accept(r, part); err != nil {
		return err
	}
	return f.land(r, part.Body)
}

// accept checks a source's answer against what is known, confirms the size by
// it, and claims what it will bring.
func (f *fill) accept(r *run, part Part) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.off == 0 && r.n < 0 && part.Total < 0 {
		part.Total = part.Len // no range was asked for: it is all there is
	}
	switch {
	case part.Off != r.off, f.size < 0 && part.Total < 0 && part.Len >= 0: // the last: a range of who knows what
		f.ignoresRanges(r.src)
		return errNoRanges
	case f.begun && !r.known && f.active > 1, f.bad, f.phase != filling:
		r.src.confirmed, r.src.answered = true, true // it has the blob, though another brings it
		f.wakeAll()
		return errTaken
	}
	if f.assumed && part.Total >= 0 && part.Total != f.size {
		f.unlearn()
		r.known, r.span = false, Span{}
	}
	if f.size >= 0 && part.Total >= 0 && part.Total != f.size {
		return fmt.Errorf("%s announces %d bytes for %s, before it was %d", r.from.Key(), part.Total, f.digest, f.size)
	}
	r.src.confirmed, r.src.answered, f.assumed, f.begun = true, true, false, true
	if f.size < 0 && part.Total >= 0 {
		if part.Total > f.store.largest() {
			return errNoRoom
		}
		f.learn(part.Total)
	}
	if r.n >= 0 && (part.Len > r.n || part.Len < 0) { // all of it, though we asked for a piece
		f.ignoresRanges(r.src)
	}
	switch {
	case !r.known || f.active == 1:
		f.unclaim(r.span) // what the plan has claimed gives way to what comes
		f.extend(r, part)
	case part.Len >= 0 && part.Len < r.span.Len(): // sources may send less than they are asked for
		short := Span{r.off, r.off + part.Len}
		f.taken.remove(Span{short.End, r.span.End})
		r.span = short
	}
	r.writes = true
	f.writers++
	f.wakeAll()
	f.wakeOwner() // now that the size is known, others may help
	return nil
}

// unlearn forgets what an earlier fill has left: it is not this blob. Called with mu held and no other request in flight.
func (f *fill) unlearn() {
	f.size, f.landed, f.taken, f.assumed = -1, nil, nil, false
	f.ledger.clear()
}

// learn fixes the size. Called with mu held.
func (f *fill) learn(size int64) {
	f.size = size
	f.ledger.init(size)
	f.beginAll()
}

// unclaim gives back what has not landed of a claim. Called with mu held.
func (f *fill) unclaim(s Span) {
	f.taken.remove(s)
	for _, l := range f.landed {
		f.taken.add(l)
	}
}

// extend claims all that the only request in flight brings. Called with mu held.
func (f *fill) extend(r *run, part Part) {
	end := int64(-1)
	switch {
	case part.Len >= 0:
		end = part.Off + part.Len
	case f.size >= 0:
		end = f.size
	}
	if r.n >= 0 && part.Len < 0 && f.size >= 0 {
		end = min(f.size, r.off+r.n)
	}
	r.known = end >= 0
	r.span = Span{r.off, max(r.off, end)}
	f.taken.add(r.span)
}

// land writes the bytes of one answer to the file and tells those who wait for them.
func (f *fill) land(r *run, body io.Reader) error {
	buf := f.store.buffers.Get().(*[]byte)
	defer f.store.buffers.Put(buf)
	var room int64 // reserved and not yet used
	defer func() { f.store.release(f, room) }()
	for !r.known || r.pos < r.span.End {
		b := *buf
		if r.known {
			b = b[:min(int64(len(b)), r.span.End-r.pos)]
		}
		n, err := body.Read(b)
		if n > 0 {
			if !r.known && r.pos+int64(n) > f.store.largest() {
				return errNoRoom
			}
			if room < int64(n) {
				grant := max(int64(n), min(f.store.opt.PieceSize, r.span.End-r.pos))
				if err := f.store.reserve(f, grant); err != nil {
					return err
				}
				room += grant
			}
			if err := f.write(r, b[:n]); err != nil {
				return err
			}
			room -= int64(n)
		}
		if err != nil {
			return f.bodyEnd(r, err)
		}
	}
	return nil
}

// write puts bytes into the file at the run's position and records them. What has landed before is
// not written again, for it may have been hashed and handed out.
func (f *fill) write(r *run, b []byte) error {
	s := Span{r.pos, r.pos + int64(len(b))}
	f.store.count.landed.Add(s.Len())
	fresh := int64(0)
	for at := s; ; {
		f.mu.Lock()
		gap, ok := f.landed.gap(at)
		f.mu.Unlock()
		if !ok {
			break
		}
		if _, err := f.file.WriteAt(b[gap.Off-s.Off:gap.End-s.Off], gap.Off); err != nil {
			f.store.diskTrouble("write a fill", err)
			return errNoRoom
		}
		fresh += gap.Len()
		if at.Off = gap.End; at.Off >= at.End {
			break
		}
	}
	r.pos = s.End
	f.mu.Lock()
	f.landed.add(s)
	r.src.brought(fresh)
	for _, w := range f.waiters {
		if w.pos < s.End && w.pos >= s.Off-1 { // who holds a byte back stands one before its end
			w.signal()
		}
	}
	if f.size < 0 && s.Off <= verifiedFirst && s.End > verifiedFirst {
		f.wakeAll() // it is not small: what has come may be handed out
	}
	marks := f.ledger.mark(s, f.landed)
	f.mu.Unlock()
	f.ledger.save(marks)
	return nil
}

// bodyEnd says what the end of a body means: of a stream without size, the size.
func (f *fill) bodyEnd(r *run, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	if r.known {
		if r.pos < r.span.End {
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size < 0 {
		f.learn(r.pos)
	}
	return nil
}

// finish gives back what a request has claimed and not brought, and judges its source.
func (f *fill) finish(ctx context.Context, r *run, took time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wakeOwner()
	f.active--
	r.src.active--
	if r.writes {
		f.writers--
	}
	brought := r.pos - r.off
	f.unclaim(Span{r.pos, r.span.End}) // a stream from zero may have claimed what was there before
	if err == nil {
		r.src.failures = 0
	}
	if brought >= 1<<20 && took > 0 {
		f.rate = int64(float64(brought) / took.Seconds())
	}
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, errTaken), errors.Is(err, errNoRanges) && r.n >= 0:
	case errors.Is(err, errNoRoom):
		f.settle(failed, errNoRoom)
	default:
		f.fault(r, err)
	}
	if f.writers == 0 || f.allDead() {
		f.wakeAll() // the hasher may be waiting for the last request to end
	}
}
