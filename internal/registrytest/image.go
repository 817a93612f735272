package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is what [Server.AddImage] has put there.
type Image struct {
	Manifest v1.Descriptor
	Raw      []byte // the manifest's bytes
	Config   v1.Descriptor
	Layers   []v1.Descriptor
	Platform v1.Platform
}

// layer is a layer's descriptor and the digest of what it unpacks to.
type layer struct {
	desc   v1.Descriptor
	diffID v1.Hash
}

// AddImage holds an OCI image for linux/amd64 of the layers as given: gzip is
// recognised, anything else counts as uncompressed. Tag "" adds no tag.
func (s *Server) AddImage(repo, tag string, layers ...[]byte) Image {
	return s.AddImageFor(repo, tag, linux("amd64"), layers...)
}

// AddImageFor is [Server.AddImage] for a platform.
func (s *Server) AddImageFor(repo, tag string, p v1.Platform, layers ...[]byte) Image {
	held := make([]layer, 0, len(layers))
	for _, content := range layers {
		l := layer{desc: s.AddBlob(repo, content)}
		l.desc.MediaType, l.diffID = types.OCIUncompressedLayer, l.desc.Digest
		if bytes.HasPrefix(content, []byte{0x1f, 0x8b}) {
			l.desc.MediaType, l.diffID = types.OCILayer, unpackedDigest(content, l.desc.Digest)
		}
		held = append(held, l)
	}
	return s.addImage(repo, tag, p, held)
}

// AddImageContent holds an OCI image for linux/amd64 of uncompressed layers
// that take no memory; see [SyntheticTar].
func (s *Server) AddImageContent(repo, tag string, layers ...*Content) Image {
	held := make([]layer, 0, len(layers))
	for _, c := range layers {
		l := layer{desc: s.AddContent(repo, c), diffID: c.Digest("sha256")}
		l.desc.MediaType = types.OCIUncompressedLayer
		held = append(held, l)
	}
	return s.addImage(repo, tag, linux("amd64"), held)
}

func (s *Server) addImage(repo, tag string, p v1.Platform, layers []layer) Image {
	img := Image{Platform: p, Layers: []v1.Descriptor{}}
	config := v1.ConfigFile{
		Architecture: p.Architecture, OS: p.OS, OSVersion: p.OSVersion, Variant: p.Variant,
		Created: v1.Time{Time: time.Unix(0, 0).UTC()},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	}
	for _, l := range layers {
		img.Layers = append(img.Layers, l.desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
	}
	img.Config = s.AddBlob(repo, mustJSON(config))
	img.Config.MediaType = types.OCIConfigJSON
	img.Raw = mustJSON(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: img.Config, Layers: img.Layers,
	})
	img.Manifest = s.AddManifest(repo, tag, types.OCIManifestSchema1, img.Raw)
	return img
}

// AddIndex holds an OCI index of images of the same repository.
func (s *Server) AddIndex(repo, tag string, images ...Image) v1.Descriptor {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	for _, img := range images {
		d := img.Manifest
		d.Platform = &img.Platform
		index.Manifests = append(index.Manifests, d)
	}
	return s.AddManifest(repo, tag, types.OCIImageIndex, mustJSON(index))
}

// AddReferrer holds an OCI manifest without layers whose subject is the given one.
func (s *Server) AddReferrer(repo string, to v1.Descriptor, artifactType string, annotations map[string]string) v1.Descriptor {
	empty := s.AddBlob(repo, []byte("{}"))
	empty.MediaType = types.OCIEmptyJSON
	return s.AddManifest(repo, "", types.OCIManifestSchema1, mustJSON(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: empty, Layers: []v1.Descriptor{empty},
		Subject:      &v1.Descriptor{MediaType: to.MediaType, Size: to.Size, Digest: to.Digest},
		ArtifactType: artifactType, Annotations: annotations,
	}))
}

// TarGz returns a gzip layer with one file: a layer that a real runtime can unpack.
func TarGz(name string, content []byte) []byte {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	// Writes to memory don't fail, nor does a file that is as long as its header says.
	_ = tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)})
	_, _ = tw.Write(content)
	_ = tw.Close()
	_ = zw.Close()
	return b.Bytes()
}

func linux(arch string) v1.Platform { return v1.Platform{OS: "linux", Architecture: arch} }

// unpackedDigest is the digest of what a gzip layer unpacks to, or otherwise
// when it doesn't.
func unpackedDigest(gz []byte, otherwise v1.Hash) v1.Hash {
	zr, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		return otherwise
	}
	if d := digestOf("sha256", zr); d != (v1.Hash{}) {
		return d
	}
	return otherwise
}

// mustJSON encodes values of this package's own making, which always can be.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte(`{}`)
	}
	return b
}
