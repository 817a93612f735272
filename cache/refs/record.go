package refs

import (
	"fmt"
	"hash/crc32"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A record is what one file says. Its own name is part of it, so that a file
// found under another name (copied, or on a file system that folds case) is not taken for that one.
type record struct {
	name      string // of the file
	digest    v1.Hash
	mediaType types.MediaType
}

const (
	mark      = "entrepot-ref-1"
	none      = "-" // stands for an empty media type
	maxRecord = 1024
)

// encode returns the record as a line.
func (r record) encode() []byte {
	mt := string(r.mediaType)
	if mt == "" {
		mt = none
	}
	line := strings.Join([]string{mark, r.name, r.digest.String(), mt}, " ")
	return fmt.Appendf(nil, "%s %s\n", line, checksum(line))
}

// decode reads back what encode wrote under that name, and nothing else.
func decode(name string, b []byte) (record, bool) {
	line, ok := strings.CutSuffix(string(b), "\n")
	cut := strings.LastIndexByte(line, ' ')
	if !ok || cut < 0 {
		return record{}, false
	}
	if line[cut+1:] != checksum(line[:cut]) {
		return record{}, false
	}
	field := strings.Split(line[:cut], " ")
	if len(field) != 4 || field[0] != mark || field[1] != name {
		return record{}, false
	}
	alg, hex, _ := strings.Cut(field[2], ":")
	r := record{name: name, digest: v1.Hash{Algorithm: alg, Hex: hex}, mediaType: types.MediaType(field[3])}
	if r.mediaType == none {
		r.mediaType = ""
	}
	return r, validDigest(r.digest) && validMediaType(r.mediaType)
}

func checksum(s string) string {
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(s), crc32.MakeTable(crc32.Castagnoli)))
}
