package refs

import (
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ErrName means that a host, repository, tag, digest or media type is not well
// formed or too long, so nothing is kept under it.
var ErrName = errors.New("refs: not a valid name")

// Limits of the parts of a path, bytes.
const (
	maxName      = 255 // repository: what the clients at large take; also what a file system takes of one component
	maxHost      = 255
	maxTag       = 128
	maxMediaType = 255 // RFC 6838, section 4.2, twice 127 and the slash
)

// Repo is one repository of one upstream.
type Repo struct {
	Upstream string // host as it is asked for, lower case, with its port if it has one
	Name     string // e.g. library/alpine
}

// String is the repository as people write it: upstream, slash, name.
func (r Repo) String() string { return r.Upstream + "/" + r.Name }

// Check returns ErrName if nothing can be kept under r.
func (r Repo) Check() error {
	if !validHost(r.Upstream) {
		return fmt.Errorf("%w: upstream %q", ErrName, r.Upstream)
	}
	if !validName(r.Name) {
		return fmt.Errorf("%w: repository %q", ErrName, r.Name)
	}
	return nil
}

func lower(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// validHost takes host[:port] and [v6][:port], lower case only.
func validHost(s string) bool {
	if s == "" || len(s) > maxHost {
		return false
	}
	var host, port string
	var hasPort bool
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 || strings.Trim(s[1:end], "0123456789abcdef:.") != "" || end == 1 {
			return false
		}
		port = s[end+1:]
		if port != "" && port[0] != ':' {
			return false
		}
		port, hasPort = strings.CutPrefix(port, ":")
	} else {
		host, port, hasPort = strings.Cut(s, ":")
		if !validLabels(host) {
			return false
		}
	}
	return !hasPort || port != "" && len(port) <= 5 && strings.Trim(port, "0123456789") == ""
}

func validLabels(host string) bool {
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || !lower(label[0]) || !lower(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !lower(c) && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// validName is the grammar of <name> in the OCI distribution specification:
// components of lower-case letters and digits, parted by one of . _ __ or any number of dashes.
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if !validComponent(part) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	if s == "" || !lower(s[0]) || !lower(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if lower(s[i]) {
			i++
			continue
		}
		j := i
		for !lower(s[j]) { // ends: the last byte is a letter or a digit
			j++
		}
		sep := s[i:j]
		if sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
		i = j
	}
	return true
}

// validTag is the grammar of a tag in the OCI distribution specification.
func validTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !lower(c) && !('A' <= c && c <= 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func validDigest(d v1.Hash) bool {
	switch d.Algorithm {
	case "sha256":
		return len(d.Hex) == 64 && isHex(d.Hex)
	case "sha512":
		return len(d.Hex) == 128 && isHex(d.Hex)
	}
	return false
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// validMediaType takes anything printable without a space; the empty one is
// kept too, for an upstream that sends none.
func validMediaType(mt types.MediaType) bool {
	if len(mt) > maxMediaType {
		return false
	}
	for i := range len(mt) {
		if mt[i] <= ' ' || mt[i] > '~' {
			return false
		}
	}
	return true
}

// fileName is how a digest is called in _manifests; parseFileName reverses it.
func fileName(d v1.Hash) string { return d.Algorithm + "-" + d.Hex }

func parseFileName(s string) (v1.Hash, bool) {
	alg, hex, _ := strings.Cut(s, "-")
	d := v1.Hash{Algorithm: alg, Hex: hex}
	return d, validDigest(d)
}
