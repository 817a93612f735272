package cache

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Bounds on how long a source may fail. A source is given up when it has failed at least
// twice over the store's patience, without progress bytes landing in between.
const (
	finalFailures = 3 // in a row, of a source that says no where it said yes before
	progress      = 256 << 10
	retryFirst    = 100 * time.Millisecond
	retryMost     = 2 * time.Second
	throttleMax   = time.Minute      // longest Retry-After waited out once bytes have landed
	slowAnswer    = time.Second      // a first answer that takes longer does not keep another source from being asked
	lingering     = 30 * time.Second // how long a fill on demand waits for its next reader
)

// A supply is a source as one fill sees it. Guarded by the fill's mu.
type supply struct {
	Source
	confirmed bool      // it has the blob: whoever joined through it may have the bytes
	answered  bool      // it has answered well in this fill: a final no is tried again before it is believed
	dead      error     // why it is not asked any more
	last      error     // its latest failure
	part      bool      // bytes of it have landed in this attempt
	suspect   bool      // had a part in content that did not match
	beyond    int       // how often it said that a range is beyond the end
	landed    int64     // bytes since its latest failure
	failedAt  time.Time // its latest failure
	noRanges  bool      // sends the whole blob whatever is asked for
	throttled bool      // one request at a time
	failures  int       // in a row, without progress
	since     time.Time // the first of these
	retryAt   time.Time
	active    int
}

// ignoresRanges marks a source that sends the whole blob whatever it is asked for. Called with mu held.
func (f *fill) ignoresRanges(s *supply) {
	if !s.noRanges {
		s.noRanges = true
		f.store.count.noRanges.Add(1)
	}
}

// better reports whether s is to be asked rather than o.
func (s *supply) better(o *supply) bool {
	switch {
	case s.suspect != o.suspect:
		return o.suspect
	case s.answered != o.answered:
		return s.answered
	case s.noRanges != o.noRanges:
		return o.noRanges
	}
	return s.failures < o.failures
}

// brought notes bytes that came from s: it is not failing. Called with mu held.
func (s *supply) brought(n int64) {
	s.part = true
	if s.landed += n; s.landed >= progress {
		s.failures, s.landed = 0, 0
	}
}

// fault records that a source failed, and when it may be asked again. Called with mu held.
func (f *fill) fault(r *run, err error) {
	s, now := r.src, time.Now()
	s.last = err
	var se *SourceError
	if errors.As(err, &se) {
		if se.Busy {
			return
		}
		if se.BeyondEnd && f.assumed {
			f.unlearn()
			return
		}
		if se.BeyondEnd && f.size < 0 && r.n >= 0 && s.beyond < 2 {
			f.beyondEnd(r)
			return
		}
	}
	if s.failures == 0 {
		s.since = now
	}
	if s.failures == 0 || r.began.After(s.failedAt) { // what fails together is one failure
		s.failures++
	}
	s.failedAt, s.landed = now, 0
	wait := min(retryMost, retryFirst<<min(s.failures-1, 10))
	wait = wait/2 + rand.N(wait/2+1)
	patience := f.store.opt.Patience
	if se != nil {
		if se.Throttled {
			s.throttled = true
			wait = max(wait, se.RetryAfter)
			if len(f.landed) > 0 {
				patience = max(patience, throttleMax)
			}
		}
		if se.Final && (!s.answered || s.failures >= finalFailures) {
			s.dead = err
		}
	}
	if s.failures >= 2 && now.Sub(s.since) > patience || wait > patience {
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
	r.src.beyond++
	if r.off == 0 {
		r.src.noRanges = true
	}
	f.first = Span{}
}
