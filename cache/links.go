package cache

import (
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/cache/index"
	"github.com/entrepot/entrepot/cache/links"
)

// Linked reports whether it is known that d may be had through r, and the size that a
// manifest of r gives it, 0 if none does.
func (s *Store) Linked(r Repo, d v1.Hash) (hint int64, ok bool) {
	if l, ok := s.index.Linked(r.String(), d); ok {
		return l.Size, true
	}
	if s.indexUsable() {
		return 0, false
	}
	return s.linkedByFiles(r, d)
}

// Link records that d may be had through r, because its upstream has said so.
func (s *Store) Link(r Repo, d v1.Hash) {
	s.index.Link(r.String(), index.Link{Digest: d, Kind: index.Blob})
}

// indexUsable reports whether a link that the index does not have does not exist.
func (s *Store) indexUsable() bool {
	select {
	case <-s.index.Loaded():
		return !s.index.NeedRebuild() && !s.gone.Load()
	default:
		return false
	}
}

// linkedByFiles asks the manifests of r, while the index is being rebuilt.
func (s *Store) linkedByFiles(r Repo, d v1.Hash) (hint int64, ok bool) {
	all, err := s.refs.Manifests(r)
	if err != nil {
		s.refTrouble("read", err)
	}
	for _, m := range all {
		raw, err := s.Manifest(m.Digest)
		if err != nil {
			continue
		}
		for l := range vouched(m.MediaType, raw) {
			if l.Digest == d {
				return l.Size, true
			}
		}
	}
	return 0, false
}

// linkChildren records that who may have the manifest may have what belongs to it.
func (s *Store) linkChildren(r Repo, mt types.MediaType, raw []byte) {
	repo := r.String()
	for l := range vouched(mt, raw) {
		s.index.Link(repo, l)
	}
}

// vouched goes through the children that a manifest gives a right to.
func vouched(mt types.MediaType, raw []byte) func(yield func(index.Link) bool) {
	return func(yield func(index.Link) bool) {
		for _, c := range links.Parse(mt, raw).Children {
			kind := index.Blob
			if c.Kind == links.Manifest {
				kind = index.Manifest
			}
			if c.Vouched && !yield(index.Link{Digest: c.Digest, Size: c.Size, Kind: kind}) {
				return
			}
		}
	}
}

// allLinks goes through what all manifests on disk give a right to.
func (s *Store) allLinks(yield func(repo string, l index.Link) bool) error {
	var trouble error
	for r, err := range s.refs.Repos() {
		trouble = errors.Join(trouble, err)
		if err != nil {
			continue
		}
		all, err := s.refs.Manifests(r)
		trouble = errors.Join(trouble, err)
		repo := r.String()
		for _, m := range all {
			raw, err := s.files.readSmall(m.Digest, MaxManifest)
			if err != nil {
				continue // not here any more: nothing to link
			}
			for l := range vouched(m.MediaType, raw) {
				if !yield(repo, l) {
					return trouble
				}
			}
		}
	}
	return trouble
}
