package links

import (
	"bytes"
	"encoding/json"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// object is a JSON object by its exact keys.
type object map[string]json.RawMessage

// parseObject returns the object that raw, part of valid JSON, is. One with a key twice, be it in
// another case, is none: some readers take the first, some the last, and
// encoding/json takes keys in any case, so that a registry may have looked at the other.
func parseObject(raw []byte) (object, bool) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	o, folded := object{}, map[string]bool{}
	for dec.More() {
		if len(o) == maxKeys {
			return nil, false
		}
		t, err := dec.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return nil, false
		}
		fold := strings.ToLower(strings.ToUpper(key)) // as encoding/json compares: ſ is s, K is k
		if folded[fold] {
			return nil, false
		}
		folded[fold] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, false
		}
		o[key] = value
	}
	return o, true
}

// parseList returns the elements of the list that raw is; none for nothing and null.
func parseList(raw []byte) ([]json.RawMessage, bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, true
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, false
	}
	var list []json.RawMessage
	for dec.More() {
		var value json.RawMessage
		if len(list) == maxChildren || dec.Decode(&value) != nil {
			return nil, false
		}
		list = append(list, value)
	}
	return list, true
}

// text is the string under key, "" if there is none or it is unreasonably long.
func (o object) text(key string) string {
	var s string
	if json.Unmarshal(o[key], &s) != nil || len(s) > maxType {
		return ""
	}
	return s
}

func (o object) object(key string) (object, bool) { return parseObject(o[key]) }

// size is the descriptor's size; 0 if it gives none, false if what it gives is no size.
func (o object) size() (int64, bool) {
	raw, ok := o["size"]
	if !ok {
		return 0, true
	}
	var n int64
	return n, json.Unmarshal(raw, &n) == nil && n >= 0
}

// subject is what the manifest says it is attached to.
func (o object) subject() *v1.Descriptor {
	s, ok := o.object("subject")
	if !ok {
		return nil
	}
	digest, ok := parseDigest(s.text("digest"))
	size, sized := s.size()
	if !ok || !sized {
		return nil
	}
	return &v1.Descriptor{Digest: digest, Size: size, MediaType: types.MediaType(s.text("mediaType"))}
}

// annotations are the manifest's own; nil if there are none or they are not all strings.
func (o object) annotations() map[string]string {
	var all map[string]string
	if len(o["annotations"]) > maxAnnotations || json.Unmarshal(o["annotations"], &all) != nil || len(all) == 0 {
		return nil
	}
	return all
}

// parseDigest takes the two algorithms that content is kept under.
func parseDigest(s string) (v1.Hash, bool) {
	alg, hex, _ := strings.Cut(s, ":")
	size := map[string]int{"sha256": 64, "sha512": 128}[alg]
	if size == 0 || len(hex) != size || strings.Trim(hex, "0123456789abcdef") != "" {
		return v1.Hash{}, false
	}
	return v1.Hash{Algorithm: alg, Hex: hex}, true
}
