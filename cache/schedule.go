package cache

import "time"

// A run is one request of a fill.
type run struct {
	src    *supply
	from   Source // src's, when the run was planned
	began  time.Time
	off    int64 // asked for
	n      int64 // < 0: to the end
	span   Span  // claimed: what the request will land; empty until the size is known
	pos    int64 // landed up to here
	known  bool  // span has an end
	writes bool  // its answer was accepted
}

// A step is what the owner of a fill does next.
type step struct {
	runs     []run
	wait     time.Duration // look again then, 0: when kicked
	wantSlot bool          // only as background work, when there is a slot
	idle     bool          // nobody reads
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
		return f.idle()
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
	if f.size < 0 && f.active > 0 && len(f.sources) > 1 && (next.wait == 0 || next.wait > slowAnswer) {
		next.wait = slowAnswer // look again whether another source should be asked
	}
	if whole := f.size >= 0 && f.landed.has(Span{0, f.size}); f.active == 0 && !whole && f.allDead() {
		f.settle(failed, f.sources[len(f.sources)-1].dead)
		next.over = true
	}
	return next
}

// idle is the step of a fill that nobody reads: it waits for a slot to go on in the background. Where
// only what is read is fetched it waits for the next reader, and is parked after a while.
func (f *fill) idle() step {
	onDemand := f.store.opt.OnDemand
	linger := lingering - time.Since(f.lonely)
	if f.active == 0 && (f.store.backlogFull() && !onDemand || onDemand && (linger <= 0 || f.store.count.idle.Load() > backlog)) {
		f.settle(failed, errParked)
		return step{over: true}
	}
	next := step{idle: true, wantSlot: !onDemand}
	if onDemand {
		next.wait = max(linger, time.Second)
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

// pick chooses the source for the next request: alive, not told to wait, never found
// wrong if possible, with ranges if possible, with the fewest failures. One that has just failed is asked
// for one thing at a time until it succeeds. If all that are alive have to wait it says how long.
func (f *fill) pick(now time.Time) (best *supply, wait time.Duration) {
	for _, s := range f.sources {
		if s.dead != nil || s.active > 0 && (f.size < 0 || s.throttled || s.noRanges || s.failures > 0) {
			continue
		}
		if d := s.retryAt.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		if best == nil || s.better(best) {
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
		late := !f.begun && time.Since(f.asked) >= slowAnswer // the others keep us waiting
		return f.planFirst(src), f.active == 0 || late
	case f.assumed && f.active > 0: // one answer first: is it still the same blob?
		return run{}, false
	case f.single || src.noRanges || f.size == 0:
		return run{src: src, n: -1}, f.active == 0 && !f.landed.has(Span{0, f.size})
	}
	if f.active > f.store.opt.Parallel {
		return run{}, false
	}
	p := plan{
		size: f.size, taken: f.taken, active: f.active,
		piece: f.store.opt.PieceSize, parallel: f.store.opt.Parallel,
		rest: f.rest || !f.store.opt.OnDemand || f.size <= verifiedFirst,
	}
	p.run = runLength(f.rate, f.size-f.taken.total(), p.piece, p.parallel)
	for _, r := range f.readers {
		p.wants = r.demand(p.wants, p.piece)
	}
	s, ok := p.next()
	if !ok && f.assumed && len(p.wants) > 0 { // all that is wanted is here: one byte will tell whether it is this blob's
		s, ok = Span{0, 1}, true
	}
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
	r.from, r.began = r.src.Source, time.Now()
	f.asked = r.began
	f.taken.add(r.span)
	f.active++
	r.src.active++
}
