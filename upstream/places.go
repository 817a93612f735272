package upstream

import (
	"context"
	"net/url"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxPlaces = 256
	placeTTL  = 10 * time.Minute // signed addresses live longer, as a rule; one that doesn't costs a 403
)

type placeKey struct {
	ep   *endpoint
	repo string
	d    v1.Hash
}

// place is where a blob is: its url may be signed, so it is never logged or put into an error.
type place struct {
	url   *url.URL // nil: the registry serves the blob itself
	near  zone     // where the endpoint was when it sent us there
	until time.Time
}

type placeEntry struct {
	cur    *place
	flight *lookup
	used   time.Time
}

// lookup is the one request that finds out where a blob is; others wait for it.
type lookup struct {
	places *places
	key    placeKey
	done   chan struct{} // closed when err is set
	err    error         // what all who wait should hear; nil: look again
}

// places remembers where redirects led, for at most maxPlaces blobs.
type places struct {
	mu sync.Mutex
	m  map[placeKey]*placeEntry // guarded by mu
}

func newPlaces() *places { return &places{m: map[placeKey]*placeEntry{}} }

// find returns where a blob is; or a lookup, if the caller is to find out and must finish it; or
// the error of whoever tried just now.
func (p *places) find(ctx context.Context, k placeKey) (*place, *lookup, error) {
	for {
		now := time.Now()
		p.mu.Lock()
		e := p.m[k]
		if e == nil {
			p.makeRoom()
			e = &placeEntry{}
			p.m[k] = e
		}
		e.used = now
		if e.cur != nil && now.Before(e.cur.until) {
			defer p.mu.Unlock()
			return e.cur, nil, nil
		}
		if e.flight == nil {
			defer p.mu.Unlock()
			e.flight = &lookup{places: p, key: k, done: make(chan struct{})}
			return nil, e.flight, nil
		}
		flight := e.flight
		p.mu.Unlock()
		select {
		case <-flight.done:
			if flight.err != nil {
				return nil, nil, flight.err
			}
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// finish publishes what a lookup found. found nil and err nil: one of those who wait tries next.
func (l *lookup) finish(found *place, err error) {
	l.places.mu.Lock()
	defer l.places.mu.Unlock()
	if e := l.places.m[l.key]; e != nil && e.flight == l {
		e.flight = nil
		if found != nil {
			e.cur = found
		}
	}
	l.err = err
	close(l.done)
}

// drop forgets a place if it still is the one that failed.
func (p *places) drop(k placeKey, failed *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.m[k]; e != nil && e.cur == failed {
		e.cur = nil
	}
}

// makeRoom drops the entry that was used the longest time ago; p.mu is held.
func (p *places) makeRoom() {
	if len(p.m) < maxPlaces {
		return
	}
	var oldest placeKey
	var at time.Time
	for k, e := range p.m {
		if e.flight == nil && (at.IsZero() || e.used.Before(at)) {
			oldest, at = k, e.used
		}
	}
	delete(p.m, oldest)
}

// placeOf is what a success says about where the blob is.
func placeOf(a *answer) *place {
	p := &place{until: time.Now().Add(placeTTL)}
	if !a.own {
		p.url, p.near = a.from, a.near
	}
	return p
}

// forAll returns err if it holds for everybody who asks for the same blob, not only for this caller or range.
func forAll(err error) error {
	f, ok := fault.As(err)
	if !ok || f.Status == 416 || (f.Kind == fault.Unavailable || f.Kind == fault.Busy) && f.Status == 0 {
		return nil
	}
	return err
}
