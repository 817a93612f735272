package cache

import (
	"slices"
	"sort"
)

// Span is the half-open range of bytes [Off, End).
type Span struct{ Off, End int64 }

// Len is the number of bytes in s.
func (s Span) Len() int64 { return s.End - s.Off }

// spans is a set of bytes, kept as sorted, disjoint spans that do not touch.
// The zero value is the empty set.
type spans []Span

// at returns the index of the first span that ends at or after off.
func (s spans) at(off int64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].End >= off })
}

// add puts x into the set.
func (s *spans) add(x Span) {
	if x.Len() <= 0 {
		return
	}
	v := *s
	i := v.at(x.Off)
	j := i
	for ; j < len(v) && v[j].Off <= x.End; j++ {
		x.Off = min(x.Off, v[j].Off)
		x.End = max(x.End, v[j].End)
	}
	if j == i+1 { // the common case: one span grows in place
		v[i] = x
		return
	}
	*s = slices.Replace(v, i, j, x)
}

// remove takes x out of the set.
func (s *spans) remove(x Span) {
	if x.Len() <= 0 {
		return
	}
	v := *s
	var keep [2]Span
	n := 0
	i := v.at(x.Off + 1)
	j := i
	for ; j < len(v) && v[j].Off < x.End; j++ {
		if v[j].Off < x.Off {
			keep[n] = Span{v[j].Off, x.Off}
			n++
		}
		if v[j].End > x.End {
			keep[n] = Span{x.End, v[j].End}
			n++
		}
	}
	*s = slices.Replace(v, i, j, keep[:n]...)
}

// from returns the end of the run of bytes in the set that starts at off, off itself if off is not in it.
func (s spans) from(off int64) int64 {
	if i := s.at(off + 1); i < len(s) && s[i].Off <= off {
		return s[i].End
	}
	return off
}

// has reports whether all of x is in the set.
func (s spans) has(x Span) bool { return x.Len() <= 0 || s.from(x.Off) >= x.End }

// gap returns the first run of bytes within x that is not in the set.
func (s spans) gap(x Span) (Span, bool) {
	off := s.from(x.Off)
	if off >= x.End {
		return Span{}, false
	}
	end := x.End
	if i := s.at(off + 1); i < len(s) {
		end = min(end, s[i].Off)
	}
	return Span{off, end}, true
}

// total is the number of bytes in the set.
func (s spans) total() int64 {
	var n int64
	for _, x := range s {
		n += x.Len()
	}
	return n
}
