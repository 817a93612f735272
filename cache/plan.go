package cache

import (
	"cmp"
	"slices"
)

// plan decides which bytes a fill asks for next. It is a pure value: the fill
// fills it in under its lock and carries out what next returns.
type plan struct {
	size     int64  // of the blob, confirmed
	piece    int64  // smallest range asked for
	run      int64  // range asked for when nobody is waiting at a spot of his own
	taken    spans  // landed or on their way
	wants    []Span // what the readers want, each from where it stands
	rest     bool   // the whole blob is wanted too
	parallel int    // requests at once; one more serves a reader far from the others
	active   int    // requests in flight
}

// next returns the range to ask for now, if another request is due.
//
// First come readers about to stand still: their gap is claimed at their very
// offset, if need be by the one worker above parallel. Then the earliest bytes
// that any reader wants, then the rest.
func (p *plan) next() (Span, bool) {
	if p.active > p.parallel {
		return Span{}, false
	}
	slices.SortFunc(p.wants, func(a, b Span) int { return cmp.Compare(a.Off, b.Off) })
	if s, ok := p.urgent(); ok {
		return s, true
	}
	if p.active >= p.parallel {
		return Span{}, false
	}
	for _, w := range p.wants {
		if g, ok := p.taken.gap(p.clip(w)); ok {
			return p.cut(g, p.run), true
		}
	}
	if !p.rest {
		return Span{}, false
	}
	g, ok := p.taken.gap(Span{0, p.size})
	return p.cut(g, p.run), ok
}

// urgent returns the gap that a reader will meet soonest, if it is within a piece of one.
func (p *plan) urgent() (Span, bool) {
	best, dist := Span{}, p.piece
	for _, w := range p.wants {
		if g, ok := p.taken.gap(p.clip(w)); ok && g.Off-w.Off < dist {
			best, dist = g, g.Off-w.Off
		}
	}
	return p.cut(best, p.piece), dist < p.piece
}

// clip bounds a want by the blob. Where the rest is wanted anyway, a want says
// where to begin, not where to end.
func (p *plan) clip(w Span) Span {
	if p.rest {
		w.End = p.size
	}
	return Span{w.Off, min(w.End, p.size)}
}

func (p *plan) cut(g Span, n int64) Span { return Span{g.Off, min(g.End, g.Off+n)} }

// runLength is the range worth asking for at once: what a connection of rate
// bytes a second brings in about a second, but not so much of what remains that
// the last requests end far apart.
func runLength(rate, remaining, piece int64, parallel int) int64 {
	n := min(rate, 8*piece, remaining/int64(2*parallel))
	return max(n, piece)
}
