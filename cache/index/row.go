package index

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Facts are what is known of a digest that is on disk.
type Facts struct {
	Size    int64     // bytes
	LastUse time.Time // to the millisecond
	Uses    int64     // since it came
}

// Kind is a set: what a repository has a digest as.
type Kind uint8

// The members of a Kind.
const (
	Blob Kind = 1 << iota
	Manifest
)

// Link says that a digest may be had through a repository.
type Link struct {
	Digest v1.Hash
	Size   int64 // as that repository's manifests say, 0 if they don't: a hint, nothing more
	Kind   Kind
}

// The rows of badger and of the snapshot.
//
//	'f' digest               -> size, last use (Unix ms), uses: uvarints
//	'l' len(repo) repo digest -> kind byte, size uvarint
//
// A digest is a byte for the algorithm and its bytes. The length before the
// repository keeps one repository's rows from being part of another's.
const (
	factsRow = 'f'
	linkRow  = 'l'
	maxRepo  = 1024 // bytes of a repository's name; longer ones are not kept
	maxKey   = 1 + binary.MaxVarintLen64 + maxRepo + 1 + 64
	maxValue = 64
)

// algorithms in a fixed order: their place is what a row holds.
var algorithms = [...]struct {
	name  string
	bytes int
}{1: {"sha256", 32}, 2: {"sha512", 64}}

// known says whether a digest is of an algorithm that is kept, and in the one
// form in which what is pending and what is written are the same: lower case.
func known(d v1.Hash) bool {
	for _, a := range algorithms {
		if a.name == d.Algorithm && a.bytes > 0 && len(d.Hex) == 2*a.bytes {
			return strings.Trim(d.Hex, "0123456789abcdef") == ""
		}
	}
	return false
}

func appendDigest(b []byte, d v1.Hash) ([]byte, bool) {
	for i, a := range algorithms {
		if a.name == d.Algorithm && a.bytes > 0 && len(d.Hex) == 2*a.bytes {
			b, err := hex.AppendDecode(append(b, byte(i)), []byte(d.Hex))
			return b, err == nil
		}
	}
	return b, false
}

func parseDigest(b []byte) (v1.Hash, bool) {
	if len(b) == 0 || b[0] == 0 || int(b[0]) >= len(algorithms) || len(b) != 1+algorithms[b[0]].bytes {
		return v1.Hash{}, false
	}
	return v1.Hash{Algorithm: algorithms[b[0]].name, Hex: hex.EncodeToString(b[1:])}, true
}

func factsKey(d v1.Hash) ([]byte, bool) { return appendDigest([]byte{factsRow}, d) }

func parseFactsKey(k []byte) (v1.Hash, bool) {
	if len(k) == 0 || k[0] != factsRow {
		return v1.Hash{}, false
	}
	return parseDigest(k[1:])
}

// linkPrefix begins the keys of all links of a repository.
func linkPrefix(repo string) ([]byte, bool) {
	b := binary.AppendUvarint([]byte{linkRow}, uint64(len(repo)))
	return append(b, repo...), len(repo) <= maxRepo
}

func linkKey(repo string, d v1.Hash) ([]byte, bool) {
	b, ok := linkPrefix(repo)
	if !ok {
		return nil, false
	}
	return appendDigest(b, d)
}

func parseLinkKey(k []byte) (repo string, d v1.Hash, ok bool) {
	if len(k) == 0 || k[0] != linkRow {
		return "", v1.Hash{}, false
	}
	n, used := binary.Uvarint(k[1:])
	if used <= 0 || n > maxRepo || len(k) < 1+used+int(n) {
		return "", v1.Hash{}, false
	}
	k = k[1+used:]
	d, ok = parseDigest(k[n:])
	return string(k[:n]), d, ok
}

func (f Facts) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(max(0, f.Size)))
	b = binary.AppendUvarint(b, uint64(max(0, f.LastUse.UnixMilli())))
	return binary.AppendUvarint(b, uint64(max(0, f.Uses)))
}

func decodeFacts(b []byte) (Facts, bool) {
	var n [3]int64
	for i := range n {
		u, used := binary.Uvarint(b)
		if used <= 0 || u > 1<<62 {
			return Facts{}, false
		}
		n[i], b = int64(u), b[used:]
	}
	f := Facts{Size: n[0], Uses: n[2]}
	if n[1] > 0 { // 0: not known
		f.LastUse = time.UnixMilli(n[1])
	}
	return f, len(b) == 0
}

func (l Link) encode() []byte {
	return binary.AppendUvarint([]byte{byte(l.Kind)}, uint64(max(0, l.Size)))
}

func decodeLink(d v1.Hash, b []byte) (Link, bool) {
	if len(b) < 2 {
		return Link{}, false
	}
	u, used := binary.Uvarint(b[1:])
	if used != len(b)-1 || u > 1<<62 {
		return Link{}, false
	}
	return Link{Digest: d, Kind: Kind(b[0]), Size: int64(u)}, true
}

// valid says whether a row read from a snapshot is one that was written.
func valid(k, v []byte) bool {
	if d, ok := parseFactsKey(k); ok {
		_, ok = decodeFacts(v)
		return ok && d.Hex != ""
	}
	_, d, ok := parseLinkKey(k)
	if ok {
		_, ok = decodeLink(d, v)
	}
	return ok
}
