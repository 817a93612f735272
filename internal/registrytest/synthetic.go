package registrytest

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Content is deterministic content that takes no memory, readable at any
// offset. The same seed and size give the same bytes in every process.
type Content struct {
	head []byte // stands before the pseudo-random bytes
	tail []byte // stands after them
	seed uint64
	mid  int64 // number of pseudo-random bytes

	mu      sync.Mutex
	digests map[string]v1.Hash // by algorithm
}

// Synthetic returns size pseudo-random bytes. A negative size counts as zero.
func Synthetic(seed uint64, size int64) *Content {
	return &Content{seed: seed, mid: max(size, 0)}
}

// SyntheticTar returns an uncompressed tar archive with one file of size
// pseudo-random bytes: a layer that a real runtime can unpack.
func SyntheticTar(name string, seed uint64, size int64) *Content {
	size = max(size, 0)
	var head bytes.Buffer
	// The header of a file in a valid name can't fail to be written to memory;
	// a name that tar can't hold leaves an archive without a file.
	_ = tar.NewWriter(&head).WriteHeader(&tar.Header{
		Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	})
	const block, trailer = 512, 1024
	pad := (block - size%block) % block
	return &Content{seed: seed, mid: size, head: head.Bytes(), tail: make([]byte, pad+trailer)}
}

// Size is the number of bytes.
func (c *Content) Size() int64 { return int64(len(c.head)) + c.mid + int64(len(c.tail)) }

// Reader reads all of it from the start.
func (c *Content) Reader() *io.SectionReader { return io.NewSectionReader(c, 0, c.Size()) }

// ReadAt implements [io.ReaderAt].
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("registrytest: read at the negative offset %d", off)
	}
	n := 0
	if h := int64(len(c.head)); off < h {
		n = copy(p, c.head[off:])
	}
	if at := off + int64(n) - int64(len(c.head)); at < c.mid && n < len(p) {
		part := p[n:min(int64(len(p)), int64(n)+c.mid-at)]
		c.fill(part, at)
		n += len(part)
	}
	if at := off + int64(n) - int64(len(c.head)) - c.mid; at >= 0 && at < int64(len(c.tail)) {
		n += copy(p[n:], c.tail[at:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fill writes the pseudo-random bytes from offset at on.
func (c *Content) fill(p []byte, at int64) {
	word := uint64(at / 8)
	if skip := int(at % 8); skip > 0 {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], mix(c.seed, word))
		p = p[copy(p, b[skip:]):]
		word++
	}
	for ; len(p) >= 8; word++ {
		binary.LittleEndian.PutUint64(p, mix(c.seed, word))
		p = p[8:]
	}
	if len(p) > 0 {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], mix(c.seed, word))
		copy(p, b[:])
	}
}

// mix is the word at an index of splitmix64's sequence.
// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
func mix(seed, word uint64) uint64 {
	z := seed + (word+1)*0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// Digest returns the digest under "sha256" or "sha512", computed once by
// streaming all bytes. Another algorithm gives the zero Hash.
func (c *Content) Digest(alg string) v1.Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.digests[alg]; ok {
		return h
	}
	h := digestOf(alg, c.Reader())
	if c.digests == nil {
		c.digests = map[string]v1.Hash{}
	}
	c.digests[alg] = h
	return h
}

// digestOf hashes r, whose reads can't fail; an unknown algorithm gives the zero Hash.
func digestOf(alg string, r io.Reader) v1.Hash {
	hasher, err := v1.Hasher(alg)
	if err != nil {
		return v1.Hash{}
	}
	if _, err := io.CopyBuffer(hasher, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return v1.Hash{}
	}
	return v1.Hash{Algorithm: alg, Hex: hex.EncodeToString(hasher.Sum(nil))}
}
