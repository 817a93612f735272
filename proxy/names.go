package proxy

import (
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache"
)

// validName and validTag are the grammars of <name> and of a tag in the OCI
// distribution specification. The store has the same, for it names files.
func validName(s string) bool {
	return cache.Repo{Upstream: dockerHub, Name: s}.Check() == nil
}

func validTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// parseDigest takes the algorithms that content can be verified by.
func parseDigest(s string) (v1.Hash, error) {
	alg, hex, _ := strings.Cut(s, ":")
	want := map[string]int{"sha256": 64, "sha512": 128}[alg]
	if want == 0 || len(hex) != want || strings.Trim(hex, "0123456789abcdef") != "" {
		return v1.Hash{}, answer(http.StatusBadRequest, codeDigestInvalid, "the digest is not one: sha256: and 64, or sha512: and 128 hexadecimal digits in lower case")
	}
	return v1.Hash{Algorithm: alg, Hex: hex}, nil
}
