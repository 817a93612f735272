// Package links reads out of a manifest what belongs to it: the digests that
// may be had wherever the manifest may be had.
//
// The invariant: a child is Vouched only if the registry that took the
// manifest must have looked whether the repository holds that child. What a
// manifest merely mentions (its subject, content at other addresses, fields
// that do not belong to its type) gives no right to anything, for anybody may
// write another repository's digests there (CVE-2021-41190 and its kin).
//
// A manifest is input from outside: whatever it holds, reading it ends in
// time and memory proportional to its size. One that two readers could
// understand differently (keys twice, a media type within that contradicts
// the one it was served with) gives no vouched children.
//
// Formats: OCI image-spec 1.1 (manifest, index), its former artifact manifest,
// Docker image manifest version 2 schema 1 and 2, and manifest list.
package links

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Limits of what is read.
const (
	maxBytes       = 16 << 20 // of a manifest
	maxChildren    = 16 << 10 // in one list
	maxKeys        = 1024     // in an object that is looked into
	maxAnnotations = 1 << 20  // bytes
	maxType        = 255      // bytes of a media type or an artifact type
)

// OCIArtifactManifest is the type of the artifact manifest that was part of the image-spec's release candidates.
const OCIArtifactManifest types.MediaType = "application/vnd.oci.artifact.manifest.v1+json"

// Kind is what a child is, and so at which address a client asks for it.
type Kind uint8

const (
	Blob     Kind = iota // config, layer
	Manifest             // a manifest below an index
)

// Child is one piece of content that a manifest refers to.
type Child struct {
	Digest    v1.Hash         // sha256 or sha512, well formed
	MediaType types.MediaType // as the manifest says, "" if it does not
	Size      int64           // as the manifest says, bytes; 0 if it does not, or contradicts itself
	Kind      Kind
	Vouched   bool // whoever may have the manifest may have this
}

// Contents is what a manifest says of itself and of what belongs to it.
type Contents struct {
	Children     []Child        // each (digest, kind) once, in the manifest's order
	Subject      *v1.Descriptor // digest, media type and size; nil if there is none
	ArtifactType string         // an image manifest without one has its config's media type
	Annotations  map[string]string
}

// Parse reads a manifest that was served as mt. What can't be understood
// leaves the Contents empty; there is no error, as nothing but convenience is
// lost: a digest without a link is asked for upstream. raw is not kept.
//
// An unknown type is read by the fields it has; its children are not vouched for.
func Parse(mt types.MediaType, raw []byte) Contents {
	if len(raw) > maxBytes || !json.Valid(raw) {
		return Contents{}
	}
	top, ok := parseObject(raw)
	if !ok {
		return Contents{}
	}
	s, known := shapeOf(mt)
	if inner := top.text("mediaType"); inner != "" && inner != string(mt) {
		s, known = shapeOf("")
	}
	c := Contents{
		Subject:     top.subject(),
		Annotations: top.annotations(),
	}
	c.ArtifactType = top.text("artifactType")
	if config, ok := top.object("config"); ok && s.config && c.ArtifactType == "" {
		c.ArtifactType = config.text("mediaType")
	}
	if c.Children, ok = s.children(top, known); !ok {
		return Contents{}
	}
	return c
}

// shape is which fields of a type of manifest refer to children.
type shape struct {
	config bool            // "config" is a descriptor
	lists  map[string]Kind // fields that are lists of descriptors
	v1     bool            // "fsLayers", a list of objects with a blobSum
}

// shapeOf returns the shape of a known type; of any other all fields that there are, and false.
func shapeOf(mt types.MediaType) (shape, bool) {
	switch mt {
	case types.OCIManifestSchema1, types.DockerManifestSchema2:
		return shape{config: true, lists: map[string]Kind{"layers": Blob}}, true
	case types.OCIImageIndex, types.DockerManifestList:
		return shape{lists: map[string]Kind{"manifests": Manifest}}, true
	case types.DockerManifestSchema1, types.DockerManifestSchema1Signed:
		return shape{v1: true}, true
	case OCIArtifactManifest:
		return shape{lists: map[string]Kind{"blobs": Blob}}, true
	}
	return shape{config: true, v1: true, lists: map[string]Kind{"layers": Blob, "blobs": Blob, "manifests": Manifest}}, false
}

// children collects what the shape's fields refer to. False: the manifest is
// not of this shape, or too large to be honest.
func (s shape) children(top object, known bool) ([]Child, bool) {
	var f family
	if s.config {
		if raw, ok := top["config"]; ok {
			f.add(raw, Blob, known)
		}
	}
	for _, field := range slices.Sorted(maps.Keys(s.lists)) {
		for _, raw := range f.list(top[field]) {
			f.add(raw, s.lists[field], known)
		}
	}
	if s.v1 {
		for _, raw := range f.list(top["fsLayers"]) {
			f.addSum(raw, known)
		}
	}
	return f.children, !f.bad
}

// family gathers children, each once.
type family struct {
	children []Child
	index    map[member]int
	bad      bool
}

type member struct {
	digest v1.Hash
	kind   Kind
}

// list returns the elements of a JSON list; a missing one or null has none.
func (f *family) list(raw json.RawMessage) []json.RawMessage {
	list, ok := parseList(raw)
	f.bad = f.bad || !ok
	return list
}

// add takes a descriptor. One that is not well formed is left out.
func (f *family) add(raw json.RawMessage, kind Kind, known bool) {
	d, ok := parseObject(raw)
	if !ok {
		return
	}
	digest, ok := parseDigest(d.text("digest"))
	size, sized := d.size()
	if !ok || !sized {
		return
	}
	mt := types.MediaType(d.text("mediaType"))
	_, elsewhere := d["urls"]
	f.put(Child{Digest: digest, MediaType: mt, Size: size, Kind: kind, Vouched: known && !elsewhere && !foreign(mt)})
}

// addSum takes a layer of a schema 1 manifest.
func (f *family) addSum(raw json.RawMessage, known bool) {
	if d, ok := parseObject(raw); ok {
		if digest, ok := parseDigest(d.text("blobSum")); ok {
			f.put(Child{Digest: digest, Kind: Blob, Vouched: known})
		}
	}
}

func (f *family) put(c Child) {
	key := member{c.Digest, c.Kind}
	i, ok := f.index[key]
	if !ok {
		if f.index == nil {
			f.index = map[member]int{}
		}
		f.index[key] = len(f.children)
		f.children = append(f.children, c)
		return
	}
	have := &f.children[i]
	have.Vouched = have.Vouched || c.Vouched
	if have.Size != c.Size {
		have.Size = 0
	}
}

// foreign says that registries take such a layer without having it.
func foreign(mt types.MediaType) bool {
	return mt == types.DockerForeignLayer || strings.HasPrefix(string(mt), "application/vnd.oci.image.layer.nondistributable.")
}
