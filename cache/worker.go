package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Bounds on how long a source may fail. A source is given up when it has failed
// maxFailures times in a row, or at least twice over the store's patience,
// without progress bytes landing in between.
const (
	maxFailures = 8
	progress    = 256 << 10
	retryFirst  = 100 * time.Millisecond
	retryMost   = 2 * time.Second
	throttleMax = time.Minute // longest Retry-After waited out once bytes have landed
)

// Reasons for a request to end that are nobody's failure.
var (
	errEnded    = errors.New("cache: the fill has ended")
	errParked   = errors.New("cache: the fill is parked")
	errNoRanges = errors.New("cache: the source ignores ranges")
)

// A run is one request of a fill.
type run struct {
	src   *supply
	off   int64 // asked for
	n     int64 // < 0: to the end
	span  Span  // claimed: what the request will land; empty until the size is known
	pos   int64 // landed up to here
	known bool  // span has an end
}

// A step is what the owner of a fill does next.
type step struct {
	runs     []run
	wait     time.Duration // look again then, 0: when kicked
	wantSlot bool          // only as background work, when there is a slot
	over     bool
}

// step plans the next requests and claims their ranges.
func (f *fill) step() step {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != filling {
		return step{over: true}
	}
	if f.bad {
		return step{}
	}
	if len(f.readers) == 0 && !f.slot {
		if f.active == 0 && (f.store.opt.OnDemand || f.store.backlogFull()) {
			f.settle(failed, errParked)
			return step{over: true}
		}
		return step{wantSlot: !f.store.opt.OnDemand}
	}
	var next step
	for {
		src, wait := f.pick(time.Now())
		if src == nil {
			next.wait = wait
			break
		}
		r, ok := f.plan(src)
		if !ok {
			break
		}
		f.claim(&r)
		next.runs = append(next.runs, r)
	}
	if whole := f.size >= 0 && f.landed.has(Span{0, f.size}); f.active == 0 && !whole && f.allDead() {
		f.settle(failed, f.sources[len(f.sources)-1].dead)
		next.over = true
	}
	return next
}

func (f *fill) allDead() bool {
	for _, s := range f.sources {
		if s.dead == nil {
			return false
		}
	}
	return len(f.sources) > 0
}

// pick chooses the source for the next request: alive, not told to wait, with
// ranges if possible, with the fewest failures. If all that are alive have to wait it says how long.
func (f *fill) pick(now time.Time) (best *supply, wait time.Duration) {
	for _, s := range f.sources {
		if s.dead != nil || s.active > 0 && (s.throttled || s.noRanges) {
			continue
		}
		if d := s.retryAt.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		if best == nil || best.noRanges && !s.noRanges ||
			best.noRanges == s.noRanges && s.failures < best.failures {
			best = s
		}
	}
	if best != nil {
		wait = 0
	}
	return best, wait
}

// plan says what to ask src for, if anything is due. Called with mu held.
func (f *fill) plan(src *supply) (run, bool) {
	switch {
	case f.size < 0:
		return f.planFirst(src), f.active == 0
	case f.assumed && f.active > 0: // one answer first: is it still the same blob?
		return run{}, false
	case f.single || src.noRanges || f.size == 0:
		return run{src: src, n: -1}, f.active == 0 && !f.landed.has(Span{0, f.size})
	}
	p := plan{
		size: f.size, taken: f.taken, active: f.active,
		piece: f.store.opt.PieceSize, parallel: f.store.opt.Parallel,
		rest: f.rest || f.assumed || !f.store.opt.OnDemand || f.size <= verifiedFirst,
	}
	p.run = runLength(f.rate, f.size-f.taken.total(), p.piece, p.parallel)
	for _, r := range f.readers {
		p.wants = r.demand(p.wants, p.piece)
	}
	s, ok := p.next()
	return run{src: src, off: s.Off, n: s.Len(), span: s, pos: s.Off, known: true}, ok && s.Len() > 0
}

// planFirst asks before the size is known: a plain GET for what fits in one
// piece, else a bounded range where the first reader wants to begin.
func (f *fill) planFirst(src *supply) run {
	piece := f.store.opt.PieceSize
	r := run{src: src, off: f.first.Off, n: piece}
	if f.store.opt.OnDemand {
		r.n = max(1, min(piece, f.first.Len()))
	}
	if front := f.landed.from(0); front > 0 { // a stream without size that broke
		r.off = front
	}
	if src.noRanges || f.single || f.hint > 0 && f.hint <= piece && f.landed == nil {
		r.off, r.n = 0, -1
	}
	r.pos = r.off
	return r
}

func (f *fill) claim(r *run) {
	f.taken.add(r.span)
	f.active++
	r.src.active++
}

// fetch carries out one request.
func (f *fill) fetch(ctx context.Context, r run) {
	start := time.Now()
	err := f.transfer(ctx, &r)
	f.finish(ctx, &r, time.Since(start), err)
}

func (f *fill) transfer(ctx context.Context, r *run) error {
	part, err := r.src.Get(ctx, f.digest, r.off, r.n)
	if err != nil {
		return err
	}
	defer part.Body.Close()
	fresh, err := f.accept(r, part)
	if err != nil {
		return err
	}
	if fresh {
		f.ledger.start()
	}
	return f.land(r, part.Body)
}

// accept checks a source's answer against what is known, confirms the size by
// it, and claims what it will bring. fresh says that a size was learnt.
func (f *fill) accept(r *run, part Part) (fresh bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if part.Off != r.off {
		f.ignoresRanges(r.src)
		return false, errNoRanges
	}
	if f.assumed && part.Total >= 0 && part.Total != f.size { // what an earlier fill left is not this blob
		f.size, f.landed, f.taken = -1, nil, nil
		r.known, r.span = false, Span{}
	}
	if f.size >= 0 && part.Total >= 0 && part.Total != f.size {
		return false, fmt.Errorf("%s announces %d bytes for %s, before it was %d", r.src.Key(), part.Total, f.digest, f.size)
	}
	r.src.confirmed, f.assumed = true, false
	if f.size < 0 && part.Total >= 0 {
		if most := f.store.opt.MaxBlobSize; most > 0 && part.Total > most {
			return false, errNoRoom
		}
		f.size, fresh = part.Total, true
		f.ledger.init(f.size)
		f.beginAll()
	}
	if r.n >= 0 && part.Len > r.n { // all of it, though we asked for a piece
		f.ignoresRanges(r.src)
	}
	switch {
	case !r.known || f.active == 1:
		f.extend(r, part)
	case part.Len >= 0 && part.Len < r.span.Len(): // sources may send less than they are asked for
		short := Span{r.off, r.off + part.Len}
		f.taken.remove(Span{short.End, r.span.End})
		r.span = short
	}
	f.wakeAll()
	return fresh, nil
}

// ignoresRanges marks a source that sends the whole blob whatever it is asked for. Called with mu held.
func (f *fill) ignoresRanges(s *supply) {
	if !s.noRanges {
		s.noRanges = true
		f.store.count.noRanges.Add(1)
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

// write puts bytes into the file at the run's position and records them.
func (f *fill) write(r *run, b []byte) error {
	if _, err := f.file.WriteAt(b, r.pos); err != nil {
		f.store.diskTrouble("write a fill", err)
		return errNoRoom
	}
	s := Span{r.pos, r.pos + int64(len(b))}
	r.pos = s.End
	f.store.count.landed.Add(s.Len())
	f.mu.Lock()
	f.landed.add(s)
	for _, w := range f.waiters {
		if w.pos < s.End && w.pos >= s.Off {
			w.signal()
		}
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
		f.size = r.pos
		f.ledger.init(f.size)
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
	brought := r.pos - r.off
	f.taken.remove(Span{r.pos, r.span.End})
	for _, s := range f.landed { // a stream from zero may have claimed what was there before
		f.taken.add(s)
	}
	if brought >= progress || err == nil {
		r.src.failures = 0
	}
	if brought >= 1<<20 && took > 0 {
		f.rate = int64(float64(brought) / took.Seconds())
	}
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, errNoRanges):
	case errors.Is(err, errNoRoom):
		f.settle(failed, errNoRoom)
	default:
		f.fault(r, err)
	}
	if f.active == 0 || f.allDead() {
		f.wakeAll() // the hasher may be waiting for the last request to end
	}
}

// fault records that a source failed, and when it may be asked again. Called with mu held.
func (f *fill) fault(r *run, err error) {
	s, now := r.src, time.Now()
	if s.failures == 0 {
		s.since = now
	}
	s.failures++
	s.last = err
	wait := min(retryMost, retryFirst<<min(s.failures-1, 10))
	wait = wait/2 + rand.N(wait/2+1)
	patience := f.store.opt.Patience
	var se *SourceError
	if errors.As(err, &se) {
		if se.BeyondEnd && f.size < 0 {
			f.beyondEnd(r)
			return
		}
		if se.Throttled {
			s.throttled = true
			wait = max(wait, se.RetryAfter)
			if len(f.landed) > 0 {
				patience = max(patience, throttleMax)
			}
		}
		if se.Final {
			s.dead = err
		}
	}
	if s.failures >= maxFailures || s.failures >= 2 && now.Sub(s.since) > f.store.opt.Patience || wait > patience {
		s.dead = err
	}
	s.retryAt = now.Add(wait)
	if r.pos > r.off {
		f.store.count.resumed.Add(1)
	}
}

// beyondEnd: the first range asked for starts beyond the end of the blob, so
// ask from its start, and if even that is beyond it, ask for no range at all.
func (f *fill) beyondEnd(r *run) {
	if r.off == 0 {
		r.src.noRanges = true
	}
	f.first = Span{}
}
