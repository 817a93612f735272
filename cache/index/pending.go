package index

import (
	"hash/maphash"
	"iter"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// factsChange is what happened to a digest since its row was written.
// Changes compose: a later one is folded into an earlier one, and both into a row.
type factsChange struct {
	gone bool // first of all, what was known is void
	put  bool // it is on disk, with this size
	size int64
	last time.Time
	uses int64
}

// fold makes later happen after c.
func (c factsChange) fold(later factsChange) factsChange {
	if later.gone {
		return later
	}
	if later.put {
		c.put, c.size = true, later.size
	}
	if later.last.After(c.last) {
		c.last = later.last
	}
	c.uses += later.uses
	return c
}

// apply returns the row after the change; ok: there was one, there is one.
func (c factsChange) apply(f Facts, ok bool) (Facts, bool) {
	if c.gone {
		f, ok = Facts{}, false
	}
	if c.put {
		f.Size, ok = c.size, true
	}
	if !ok {
		return Facts{}, false
	}
	if c.last.After(f.LastUse) {
		f.LastUse = time.UnixMilli(c.last.UnixMilli())
	}
	f.Uses += c.uses
	return f, true
}

// linkChange is what happened to a link since its row was written.
type linkChange struct {
	gone bool
	put  bool
	link Link
}

func (c linkChange) fold(later linkChange) linkChange {
	if later.gone {
		return later
	}
	if later.put {
		c.link, c.put = later.apply(c.link, c.put)
	}
	return c
}

// apply returns the row after the change. A size that is not known leaves the one that is.
func (c linkChange) apply(l Link, ok bool) (Link, bool) {
	if c.gone {
		l, ok = Link{}, false
	}
	if !c.put {
		return l, ok
	}
	kind := l.Kind | c.link.Kind
	size := c.link.Size
	if size == 0 {
		size = l.Size
	}
	return Link{Digest: c.link.Digest, Size: size, Kind: kind}, true
}

type linkID struct {
	repo   string
	digest v1.Hash
}

// layer is a set of changes.
type layer struct {
	facts map[v1.Hash]factsChange
	links map[linkID]linkChange
}

func newLayer() *layer {
	return &layer{facts: map[v1.Hash]factsChange{}, links: map[linkID]linkChange{}}
}

// shard holds the changes of some digests: those that come in, and those that are being written.
// A reader that finds a change in neither finds it written.
type shard struct {
	mu      sync.Mutex // leaf lock; held for map operations only
	current *layer
	writing *layer // nil when nothing is being written
}

const shards = 32

// pending is all changes that are not known to be in badger.
type pending struct {
	seed  maphash.Seed
	shard [shards]shard
}

func newPending() *pending {
	p := &pending{seed: maphash.MakeSeed()}
	for i := range p.shard {
		p.shard[i].current = newLayer()
	}
	return p
}

func (p *pending) of(d v1.Hash) *shard {
	return &p.shard[maphash.String(p.seed, d.Hex)%shards]
}

func (p *pending) changeFacts(d v1.Hash, c factsChange) {
	s := p.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.facts[d] = s.current.facts[d].fold(c)
}

func (p *pending) changeLink(repo string, c linkChange) {
	id := linkID{repo, c.link.Digest}
	s := p.of(id.digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.links[id] = s.current.links[id].fold(c)
}

// facts returns the change that is pending for d.
func (p *pending) facts(d v1.Hash) factsChange {
	s := p.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.current.facts[d]
	if s.writing != nil {
		c = s.writing.facts[d].fold(c)
	}
	return c
}

// link returns the change that is pending for a link.
func (p *pending) link(id linkID) linkChange {
	s := p.of(id.digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.current.links[id]
	if s.writing != nil {
		c = s.writing.links[id].fold(c)
	}
	return c
}

// allFacts returns a copy of the changes pending for all digests.
func (p *pending) allFacts() map[v1.Hash]factsChange {
	all := map[v1.Hash]factsChange{}
	for l := range p.layers() {
		for d, c := range l.facts {
			all[d] = all[d].fold(c)
		}
	}
	return all
}

// linksOf returns a copy of the changes pending for one repository.
func (p *pending) linksOf(repo string) map[v1.Hash]linkChange {
	all := map[v1.Hash]linkChange{}
	for l := range p.layers() {
		for id, c := range l.links {
			if id.repo == repo {
				all[id.digest] = all[id.digest].fold(c)
			}
		}
	}
	return all
}

// layers goes through all layers, earlier before later, each under its shard's lock.
func (p *pending) layers() iter.Seq[*layer] {
	return func(yield func(*layer) bool) {
		for i := range p.shard {
			if !p.shard[i].visit(yield) {
				return
			}
		}
	}
}

func (s *shard) visit(yield func(*layer) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (s.writing == nil || yield(s.writing)) && yield(s.current)
}

// take moves what has come in to be written. Called by the one writer.
func (s *shard) take() *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.current.facts) == 0 && len(s.current.links) == 0 {
		return nil
	}
	s.writing, s.current = s.current, newLayer()
	return s.writing
}

// written says that what was taken can be read from badger now.
func (s *shard) written() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = nil
}
