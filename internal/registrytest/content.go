package registrytest

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// contents is everything the registry holds.
type contents struct {
	mu    sync.RWMutex
	repos map[string]*repository // guarded by mu, as is all below
}

type repository struct {
	blobs     map[string]section  // by digest
	manifests map[string]manifest // by digest
	order     []string            // digests of manifests as they came
	tags      map[string]string   // tag to digest
}

// section is a part of something that can be read at any offset.
type section struct {
	r    io.ReaderAt
	off  int64
	size int64
}

func bytesSection(b []byte) section { return section{r: bytes.NewReader(b), size: int64(len(b))} }

// from returns the n bytes that start at off.
func (s section) from(off, n int64) section { return section{r: s.r, off: s.off + off, size: n} }

type manifest struct {
	mediaType string
	raw       []byte
	digest    string
}

// repo returns a repository, made when it is not there. The caller holds mu.
func (c *contents) repo(name string) *repository {
	if c.repos == nil {
		c.repos = map[string]*repository{}
	}
	r := c.repos[name]
	if r == nil {
		r = &repository{blobs: map[string]section{}, manifests: map[string]manifest{}, tags: map[string]string{}}
		c.repos[name] = r
	}
	return r
}

// AddBlob holds content under its sha256 digest and returns its descriptor.
// The caller leaves content unchanged from then on.
func (s *Server) AddBlob(repo string, content []byte) v1.Descriptor {
	d := digestOf("sha256", bytes.NewReader(content))
	s.AddBlobAt(repo, int64(len(content)), bytes.NewReader(content), d)
	return v1.Descriptor{MediaType: "application/octet-stream", Size: int64(len(content)), Digest: d}
}

// AddContent holds c under its sha256 digest and returns its descriptor.
func (s *Server) AddContent(repo string, c *Content) v1.Descriptor {
	d := c.Digest("sha256")
	s.AddBlobAt(repo, c.Size(), c, d)
	return v1.Descriptor{MediaType: "application/octet-stream", Size: c.Size(), Digest: d}
}

// AddBlobAt holds the first size bytes of r as the blob d. That they match d
// is the caller's word: a registry that serves wrong bytes is made this way.
func (s *Server) AddBlobAt(repo string, size int64, r io.ReaderAt, d v1.Hash) {
	s.content.mu.Lock()
	defer s.content.mu.Unlock()
	s.content.repo(repo).blobs[d.String()] = section{r: r, size: size}
}

// AddManifest holds raw under its sha256 digest and, unless tag is "", points
// the tag at it.
func (s *Server) AddManifest(repo, tag string, mt types.MediaType, raw []byte) v1.Descriptor {
	return s.AddManifestAlg(repo, tag, "sha256", mt, raw)
}

// AddManifestAlg is [Server.AddManifest] with a digest under "sha256" or "sha512".
func (s *Server) AddManifestAlg(repo, tag, alg string, mt types.MediaType, raw []byte) v1.Descriptor {
	d := digestOf(alg, bytes.NewReader(raw))
	s.AddManifestAs(repo, tag, d, mt, raw)
	return v1.Descriptor{MediaType: mt, Size: int64(len(raw)), Digest: d, ArtifactType: subjectOf(raw).artifactType()}
}

// AddManifestAs holds raw as the manifest d. That raw matches d is the caller's word.
func (s *Server) AddManifestAs(repo, tag string, d v1.Hash, mt types.MediaType, raw []byte) {
	s.content.mu.Lock()
	defer s.content.mu.Unlock()
	r := s.content.repo(repo)
	key := d.String()
	if _, ok := r.manifests[key]; !ok {
		r.order = append(r.order, key)
	}
	r.manifests[key] = manifest{mediaType: string(mt), raw: slices.Clone(raw), digest: key}
	if tag != "" {
		r.tags[tag] = key
	}
}

// Tag points a tag at a manifest, there or not.
func (s *Server) Tag(repo, tag string, d v1.Hash) {
	s.content.mu.Lock()
	defer s.content.mu.Unlock()
	s.content.repo(repo).tags[tag] = d.String()
}

// Untag removes a tag; the manifest stays.
func (s *Server) Untag(repo, tag string) {
	s.content.mu.Lock()
	defer s.content.mu.Unlock()
	delete(s.content.repo(repo).tags, tag)
}

// Delete removes what ref names: a tag together with its manifest, or the
// manifest or blob of a digest together with the tags that point at it.
func (s *Server) Delete(repo, ref string) {
	s.content.mu.Lock()
	defer s.content.mu.Unlock()
	r := s.content.repo(repo)
	if digest, ok := r.tags[ref]; ok {
		ref = digest
	}
	delete(r.blobs, ref)
	delete(r.manifests, ref)
	r.order = slices.DeleteFunc(r.order, func(d string) bool { return d == ref })
	maps.DeleteFunc(r.tags, func(_, d string) bool { return d == ref })
}

func (c *contents) blob(repo, digest string) (section, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.repos[repo]
	if r == nil {
		return section{}, false
	}
	b, ok := r.blobs[digest]
	return b, ok
}

func (c *contents) manifest(repo, ref string) (manifest, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.repos[repo]
	if r == nil {
		return manifest{}, false
	}
	if digest, ok := r.tags[ref]; ok {
		ref = digest
	}
	m, ok := r.manifests[ref]
	return m, ok
}

// tags returns the tags in lexical order; false when there is no such repository.
func (c *contents) tags(repo string) ([]string, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.repos[repo]
	if r == nil {
		return nil, false
	}
	return slices.Sorted(maps.Keys(r.tags)), true
}

// referrers returns the manifests whose subject is digest, as they came.
func (c *contents) referrers(repo, digest string) []manifest {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.repos[repo]
	if r == nil {
		return nil
	}
	var found []manifest
	for _, d := range r.order {
		m := r.manifests[d]
		if s := subjectOf(m.raw); s.Subject != nil && s.Subject.Digest == digest {
			found = append(found, m)
		}
	}
	return found
}

// subject is what the referrers API needs of a manifest.
type subject struct {
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
	Config       struct {
		MediaType string `json:"mediaType"`
	} `json:"config"`
	Subject *struct {
		Digest string `json:"digest"`
	} `json:"subject"`
}

// subjectOf reads what it can: manifests of tests need not be JSON.
func subjectOf(raw []byte) subject {
	var s subject
	if json.Unmarshal(raw, &s) != nil {
		return subject{}
	}
	return s
}

// artifactType falls back to the config's media type, as the specification
// demands of referrers ("Listing Referrers"), where there is a subject.
func (s subject) artifactType() string {
	if s.ArtifactType == "" && s.Subject != nil {
		return s.Config.MediaType
	}
	return s.ArtifactType
}
