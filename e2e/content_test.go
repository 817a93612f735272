//go:build linux

package e2e

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// A layer is a tar archive with one file of random bytes, gzipped in a file of
// its own: a runtime unpacks it. It is a [v1.Layer].
type layer struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

// newLayer writes a layer of about size bytes. Its bytes are random, so gzip
// stores them as they are, which spares the time of trying to compress them.
func newLayer(dir, name string, seed uint64, size int64) (*layer, error) {
	l := &layer{path: filepath.Join(dir, name+".tar.gz")}
	f, err := os.Create(l.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content := registrytest.SyntheticTar("data/"+name, seed, size)
	packed, plain := sha256.New(), sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, packed), 1<<20)
	zip, err := gzip.NewWriterLevel(buffered, gzip.NoCompression)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(io.MultiWriter(zip, plain), struct{ io.Reader }{content.Reader()}, make([]byte, 1<<20)); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	if err := buffered.Flush(); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	l.size = info.Size()
	l.digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(packed.Sum(nil))}
	l.diffID = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(plain.Sum(nil))}
	return l, nil
}

func (l *layer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.diffID, nil }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return nil, fmt.Errorf("not needed") }

// newImage is an image for one platform.
func newImage(arch string, layers []*layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config.Cmd = []string{"/data"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	for _, l := range layers {
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// content is an index of two images and what a client must have of it.
type content struct {
	index  v1.ImageIndex
	digest v1.Hash
	raw    []byte

	whole map[v1.Hash]int64 // size of everything: the index, manifests, configs, layers
	amd64 platform
	bytes int64 // sum of whole
}

// platform is what a client on linux/amd64 must have.
type platform struct {
	manifest, config v1.Hash
	layers, diffIDs  []v1.Hash
	blobs            map[v1.Hash]int64 // manifest, config and layers
	bytes            int64             // sum of blobs, and of the index
}

// newContent makes an index: for linux/amd64 with layers of these sizes, for
// linux/arm64 with two small ones of its own and one in common.
func newContent(dir, name string, seed uint64, sizes []int64) (*content, error) {
	var layers []*layer
	for i, size := range append([]int64{1 << 20, 2 << 20}, sizes...) {
		l, err := newLayer(dir, fmt.Sprintf("%s-%d", name, i), seed+uint64(i), size)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	amd64, err := newImage("amd64", layers[2:])
	if err != nil {
		return nil, err
	}
	arm64, err := newImage("arm64", layers[:3])
	if err != nil {
		return nil, err
	}
	c := &content{whole: map[v1.Hash]int64{}}
	c.index = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for arch, img := range map[string]v1.Image{"amd64": amd64, "arm64": arm64} {
		p, err := survey(img)
		if err != nil {
			return nil, err
		}
		for d, size := range p.blobs {
			c.whole[d] = size
		}
		if arch == "amd64" {
			c.amd64 = p
		}
		c.index = mutate.AppendManifests(c.index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	if c.raw, err = c.index.RawManifest(); err != nil {
		return nil, err
	}
	if c.digest, err = c.index.Digest(); err != nil {
		return nil, err
	}
	c.whole[c.digest] = int64(len(c.raw))
	c.amd64.bytes += int64(len(c.raw))
	for _, size := range c.whole {
		c.bytes += size
	}
	return c, nil
}

// survey lists what an image is made of.
func survey(img v1.Image) (platform, error) {
	p := platform{blobs: map[v1.Hash]int64{}}
	m, err := img.Manifest()
	if err != nil {
		return p, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return p, err
	}
	if p.manifest, err = img.Digest(); err != nil {
		return p, err
	}
	size, err := img.Size()
	if err != nil {
		return p, err
	}
	p.config, p.diffIDs = m.Config.Digest, config.RootFS.DiffIDs
	p.blobs[p.manifest], p.blobs[p.config] = size, m.Config.Size
	for _, l := range m.Layers {
		p.layers = append(p.layers, l.Digest)
		p.blobs[l.Digest] = l.Size
	}
	for _, size := range p.blobs {
		p.bytes += size
	}
	return p, nil
}

// fileDigest is the sha256 of a file.
func fileDigest(path string) (v1.Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return v1.Hash{}, err
	}
	defer f.Close()
	d, _, err := v1.SHA256(f)
	return d, err
}

// checkFile fails unless the file's content is d.
func checkFile(t *testing.T, path string, d v1.Hash) {
	t.Helper()
	got, err := fileDigest(path)
	if err != nil {
		t.Errorf("the client lacks %s: %v", d, err)
	} else if got != d {
		t.Errorf("the client holds %s where %s was pushed", got, d)
	}
}
