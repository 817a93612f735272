package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/maypok86/otter/v2"

	"github.com/entrepot/entrepot/cache/links"
	"github.com/entrepot/entrepot/cache/refs"
)

const (
	// MaxManifest is the size of the largest manifest taken, in bytes.
	MaxManifest = 16 << 20
	shelfSize   = 32 << 20 // bytes of manifests kept in memory
	shelfKinds  = 64 << 10 // (repository, manifest) pairs whose media type is kept in memory
)

// Manifest is a manifest on its way into the store.
type Manifest struct {
	Repo      Repo
	Tag       string // also point this tag to it; "" for none
	Digest    v1.Hash
	MediaType types.MediaType
	Raw       []byte // verified by the caller; not to be modified afterwards
}

// shelf is what is kept of manifests in memory.
type shelf struct {
	raw   *otter.Cache[v1.Hash, []byte]
	kinds *otter.Cache[kindKey, types.MediaType]

	mu      sync.Mutex         // guards pending
	pending map[v1.Hash][]byte // accepted, and not yet on disk
}

type kindKey struct {
	repo   Repo
	digest v1.Hash
}

func newShelf() *shelf {
	return &shelf{
		raw: otter.Must(&otter.Options[v1.Hash, []byte]{
			MaximumWeight: shelfSize,
			Weigher:       func(_ v1.Hash, b []byte) uint32 { return uint32(len(b)) + 256 },
		}),
		kinds:   otter.Must(&otter.Options[kindKey, types.MediaType]{MaximumSize: shelfKinds}),
		pending: make(map[v1.Hash][]byte),
	}
}

// PutManifest keeps a manifest: its repository has it as a manifest from now on, and its
// children are linked to the repository. All of it can be read when PutManifest returns;
// the content is brought to the disk behind the caller's back. What the disk can't take is lost,
// which costs a refetch.
func (s *Store) PutManifest(m Manifest) {
	s.shelf.raw.Set(m.Digest, m.Raw)
	s.shelf.kinds.Set(kindKey{m.Repo, m.Digest}, m.MediaType)
	s.linkChildren(m.Repo, m.MediaType, m.Raw)
	if s.isDetached() {
		return
	}
	if err := s.refs.AddManifest(m.Repo, m.Digest, m.MediaType); err != nil {
		s.refTrouble("write", err)
	}
	if m.Tag != "" {
		s.SetTag(m.Repo, m.Tag, m.Digest, m.MediaType)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached {
		return
	}
	s.shelf.mu.Lock()
	s.shelf.pending[m.Digest] = m.Raw
	s.shelf.mu.Unlock()
	s.writing.Go(func() { s.writeManifest(m) })
}

func (s *Store) isDetached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.detached
}

// writeManifest brings an accepted manifest to the disk.
func (s *Store) writeManifest(m Manifest) {
	defer func() {
		s.shelf.mu.Lock()
		defer s.shelf.mu.Unlock()
		delete(s.shelf.pending, m.Digest)
	}()
	s.writers <- struct{}{}
	defer func() { <-s.writers }()
	if _, ok := s.files.blobSize(m.Digest); ok {
		return
	}
	size := int64(len(m.Raw))
	if !s.fits(size) && !s.makeRoom(size) {
		s.diskTrouble("keep a manifest", errNoRoom)
		return
	}
	s.keep(m.Digest)
	fresh, err := s.files.writeBlob(m.Digest, m.Raw)
	if err != nil {
		s.diskTrouble("keep a manifest", err)
	}
	if fresh {
		s.quota.used.Add(size)
		s.count.blobs.Add(1)
		s.index.Put(m.Digest, size)
	}
}

// Manifest returns verified content of at most MaxManifest bytes; fs.ErrNotExist if it is not
// here. It is not to be modified.
func (s *Store) Manifest(d v1.Hash) ([]byte, error) {
	if raw, ok := s.shelf.raw.GetIfPresent(d); ok {
		s.index.Touch(d)
		return raw, nil
	}
	s.shelf.mu.Lock()
	raw, ok := s.shelf.pending[d]
	s.shelf.mu.Unlock()
	if ok {
		return raw, nil
	}
	if !validDigest(d) {
		return nil, fs.ErrNotExist
	}
	raw, err := s.readManifest(d)
	if err != nil {
		return nil, err
	}
	s.shelf.raw.Set(d, raw)
	s.index.Touch(d)
	return raw, nil
}

// readManifest reads and verifies content from the disk. What is rotten is
// removed, so that it is fetched again.
func (s *Store) readManifest(d v1.Hash) ([]byte, error) {
	raw, err := s.files.readSmall(d, MaxManifest)
	if err == nil && Matches(d, raw) {
		return raw, nil
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.diskTrouble("read a manifest", err)
		}
		return nil, fs.ErrNotExist
	}
	s.diskTrouble("read a manifest", fmt.Errorf("%s: %w", d, ErrDamaged))
	s.drop(d, int64(len(raw)))
	return nil, fs.ErrNotExist
}

// ManifestType returns the media type under which r has d as a manifest, if it has.
func (s *Store) ManifestType(r Repo, d v1.Hash) (types.MediaType, bool) {
	key := kindKey{r, d}
	if mt, ok := s.shelf.kinds.GetIfPresent(key); ok {
		return mt, true
	}
	mt, ok := s.refs.ManifestType(r, d)
	if ok {
		s.shelf.kinds.Set(key, mt)
	}
	return mt, ok
}

// Manifests returns the manifests of r that are here, with their sizes.
func (s *Store) Manifests(r Repo) ([]v1.Descriptor, error) {
	all, err := s.refs.Manifests(r)
	if err != nil {
		return nil, err
	}
	here := all[:0]
	for _, m := range all {
		if size, ok := s.files.blobSize(m.Digest); ok {
			m.Size = size
			here = append(here, m)
		}
	}
	return here, nil
}

// Referrers returns the manifests of r that are here and name d as their subject
// (OCI image specification), as a registry lists them.
func (s *Store) Referrers(r Repo, d v1.Hash) ([]v1.Descriptor, error) {
	all, err := s.Manifests(r)
	var found []v1.Descriptor
	for _, m := range all {
		raw, err := s.Manifest(m.Digest)
		if err != nil {
			continue
		}
		if x := links.Parse(m.MediaType, raw); x.Subject != nil && x.Subject.Digest == d {
			m.ArtifactType, m.Annotations = x.ArtifactType, x.Annotations
			found = append(found, m)
		}
	}
	return found, err
}

// Tag returns what a tag pointed to when it was last checked.
func (s *Store) Tag(r Repo, tag string) (Tag, bool) { return s.refs.Tag(r, tag) }

// SetTag points a tag to a digest, checked now.
func (s *Store) SetTag(r Repo, tag string, d v1.Hash, mt types.MediaType) {
	if s.isDetached() {
		return
	}
	if old, ok := s.refs.Tag(r, tag); ok && old.Digest == d && old.MediaType == mt {
		if s.refs.Touch(r, tag, time.Now()) == nil {
			return
		}
	}
	if err := s.refs.SetTag(r, tag, refs.Tag{Digest: d, MediaType: mt, Checked: time.Now()}); err != nil {
		s.refTrouble("write", err)
	}
}

// DropTag forgets a tag.
func (s *Store) DropTag(r Repo, tag string) {
	if s.isDetached() {
		return
	}
	if err := s.refs.DropTag(r, tag); err != nil {
		s.refTrouble("write", err)
	}
}

// Tags returns the tags of r that are known here, in lexical order.
func (s *Store) Tags(r Repo) ([]string, error) { return s.refs.Tags(r) }

// refTrouble reports a ref that could not be read or written; it is asked for again.
func (s *Store) refTrouble(doing string, err error) { s.diskTrouble(doing+" a ref", err) }
