package upstream

import (
	"context"
	"slices"
	"sync"
)

// gate bounds the requests under way. Who waits for a place gets it in the order of
// coming, but for one rule: whatever has no request under way at all goes
// before the second request for something that has. So a few large blobs behind
// a slow link, each with several ranges, don't keep a new one from beginning.
type gate struct {
	mu      sync.Mutex // guards all below
	free    int
	flying  map[string]int // requests with a place, by what they are for
	waiting []*ticket      // first come first
}

type ticket struct {
	what    string
	granted chan struct{} // closed, with mu held, when the place is the ticket's
}

func newGate(places int) *gate { return &gate{free: max(1, places), flying: make(map[string]int)} }

// newGates divides places between what is not a blob, which gets a quarter, and blobs.
// With a single place both share it.
func newGates(places int) (api, blob *gate) {
	if places < 2 {
		g := newGate(places)
		return g, g
	}
	n := max(1, places/4)
	return newGate(n), newGate(places - n)
}

// enter waits for a place for a request about what, until ctx ends. Whoever has entered leaves once.
func (g *gate) enter(ctx context.Context, what string) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.flying[what]++
		g.mu.Unlock()
		return nil
	}
	t := &ticket{what, make(chan struct{})}
	g.waiting = append(g.waiting, t)
	g.mu.Unlock()
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, t); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	} else { // granted at the same moment
		g.pass(what)
	}
	return ctx.Err()
}

// leave gives a place back.
func (g *gate) leave(what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(what)
}

// pass hands a place on. Called with mu held.
func (g *gate) pass(what string) {
	if g.flying[what]--; g.flying[what] <= 0 {
		delete(g.flying, what)
	}
	if len(g.waiting) == 0 {
		g.free++
		return
	}
	i := max(0, slices.IndexFunc(g.waiting, func(t *ticket) bool { return g.flying[t.what] == 0 }))
	next := g.waiting[i]
	g.waiting = slices.Delete(g.waiting, i, i+1)
	g.flying[next.what]++
	close(next.granted)
}
