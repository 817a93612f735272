package links_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/cache/links"
)

func digest(n int) v1.Hash    { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)} }
func digest512(n int) v1.Hash { return v1.Hash{Algorithm: "sha512", Hex: fmt.Sprintf("%0128x", n)} }

// fill puts digests in place of $1, $2, … and $$1 (sha512).
func fill(s string) []byte {
	for i := range 10 {
		s = strings.ReplaceAll(s, fmt.Sprintf("$$%d", i), digest512(i).String())
		s = strings.ReplaceAll(s, fmt.Sprintf("$%d", i), digest(i).String())
	}
	return []byte(s)
}

const (
	layerType  = types.DockerLayer
	configType = types.DockerConfigJSON
)

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		mt   types.MediaType
		raw  string
		want links.Contents
	}{
		{"OCI image with artifact fields", types.OCIManifestSchema1, `{"schemaVersion":2,"mediaType":"` + string(types.OCIManifestSchema1) + `",
			"config":{"mediaType":"application/vnd.example.config","digest":"$1","size":2},
			"layers":[{"mediaType":"a/b","digest":"$$2","size":3},{"digest":"$3","size":0}],
			"subject":{"mediaType":"` + string(types.OCIImageIndex) + `","digest":"$4","size":5},
			"annotations":{"k":"v","K":"V"},"future":{"layers":[{"digest":"$9"}]}}`,
			links.Contents{
				Children: []links.Child{
					{Digest: digest(1), MediaType: "application/vnd.example.config", Size: 2, Vouched: true},
					{Digest: digest512(2), MediaType: "a/b", Size: 3, Vouched: true},
					{Digest: digest(3), Vouched: true},
				},
				Subject:      &v1.Descriptor{Digest: digest(4), Size: 5, MediaType: types.OCIImageIndex},
				ArtifactType: "application/vnd.example.config",
				Annotations:  map[string]string{"k": "v", "K": "V"},
			}},
		{"its own artifact type wins", types.OCIManifestSchema1, `{"artifactType":"x/y","config":{"mediaType":"c/d","digest":"$1","size":2},"layers":[]}`,
			links.Contents{ArtifactType: "x/y", Children: []links.Child{{Digest: digest(1), MediaType: "c/d", Size: 2, Vouched: true}}}},
		{"Docker schema 2 with a foreign layer", types.DockerManifestSchema2, `{"config":{"mediaType":"` + string(configType) + `","digest":"$1","size":1},
			"layers":[{"mediaType":"` + string(types.DockerForeignLayer) + `","digest":"$2","size":2},
			{"mediaType":"` + string(layerType) + `","digest":"$3","size":3,"urls":["https://example.com/x"]},
			{"mediaType":"` + string(layerType) + `","digest":"$4","size":4}]}`,
			links.Contents{ArtifactType: string(configType), Children: []links.Child{
				{Digest: digest(1), MediaType: configType, Size: 1, Vouched: true},
				{Digest: digest(2), MediaType: types.DockerForeignLayer, Size: 2},
				{Digest: digest(3), MediaType: layerType, Size: 3},
				{Digest: digest(4), MediaType: layerType, Size: 4, Vouched: true},
			}}},
		{"OCI layer not to be distributed", types.OCIManifestSchema1, `{"layers":[{"mediaType":"` + string(types.OCIRestrictedLayer) + `","digest":"$1","size":1}]}`,
			links.Contents{Children: []links.Child{{Digest: digest(1), MediaType: types.OCIRestrictedLayer, Size: 1}}}},
		{"OCI index", types.OCIImageIndex, `{"artifactType":"x/y","manifests":[{"mediaType":"m/m","digest":"$1","size":1},{"mediaType":"n/n","digest":"$2","size":2}]}`,
			links.Contents{ArtifactType: "x/y", Children: []links.Child{
				{Digest: digest(1), MediaType: "m/m", Size: 1, Kind: links.Manifest, Vouched: true},
				{Digest: digest(2), MediaType: "n/n", Size: 2, Kind: links.Manifest, Vouched: true},
			}}},
		{"Docker list", types.DockerManifestList, `{"manifests":[{"digest":"$1","size":1}]}`,
			links.Contents{Children: []links.Child{{Digest: digest(1), Size: 1, Kind: links.Manifest, Vouched: true}}}},
		{"Docker schema 1, signed", types.DockerManifestSchema1Signed, `{"schemaVersion":1,"fsLayers":[{"blobSum":"$1"},{"blobSum":"$2"},{"blobSum":"$1"}],"signatures":[{}]}`,
			links.Contents{Children: []links.Child{{Digest: digest(1), Vouched: true}, {Digest: digest(2), Vouched: true}}}},
		{"artifact manifest", links.OCIArtifactManifest, `{"artifactType":"x/y","blobs":[{"mediaType":"b/b","digest":"$1","size":1}],"subject":{"digest":"$2","size":9}}`,
			links.Contents{ArtifactType: "x/y", Subject: &v1.Descriptor{Digest: digest(2), Size: 9},
				Children: []links.Child{{Digest: digest(1), MediaType: "b/b", Size: 1, Vouched: true}}}},
		{"unknown type", "application/vnd.example.thing+json", `{"config":{"digest":"$1"},"blobs":[{"digest":"$2"}],"layers":[{"digest":"$3"}],"manifests":[{"digest":"$4"}],"fsLayers":[{"blobSum":"$5"}]}`,
			links.Contents{Children: []links.Child{
				{Digest: digest(1)}, {Digest: digest(2)}, {Digest: digest(3)}, {Digest: digest(4), Kind: links.Manifest}, {Digest: digest(5)}}}},
		{"fields of another type", types.OCIManifestSchema1, `{"layers":[{"digest":"$1","size":1}],"manifests":[{"digest":"$2","size":1}],"blobs":[{"digest":"$3"}]}`,
			links.Contents{Children: []links.Child{{Digest: digest(1), Size: 1, Vouched: true}}}},
		{"the type within contradicts", types.OCIManifestSchema1, `{"mediaType":"` + string(types.OCIImageIndex) + `","layers":[{"digest":"$1","size":1}]}`,
			links.Contents{Children: []links.Child{{Digest: digest(1), Size: 1}}}},
		{"the same layer twice", types.OCIManifestSchema1, `{"layers":[{"digest":"$1","size":1},{"digest":"$1","size":1},{"digest":"$2","size":1},{"digest":"$2","size":7}]}`,
			links.Contents{Children: []links.Child{{Digest: digest(1), Size: 1, Vouched: true}, {Digest: digest(2), Vouched: true}}}},
		{"some descriptors are bad", types.OCIManifestSchema1, `{"config":7,"layers":[null,{},[],"x",{"digest":"$1","size":-1},{"digest":"$2","size":1.5},{"digest":"$3","size":1e40},
			{"digest":"$4","size":"1"},{"digest":"sha256:../../x"},{"digest":"md5:00"},{"digest":"$5x"},{"Digest":"$6"},{"digest":"$7","DIGEST":"$6"},{"digest":"$8","size":8}]}`,
			links.Contents{Children: []links.Child{{Digest: digest(8), Size: 8, Vouched: true}}}},
		{"no layers", types.OCIManifestSchema1, `{"layers":null}`, links.Contents{}},
		{"empty index", types.OCIImageIndex, `{"manifests":[]}`, links.Contents{}},
		{"annotations that are not strings", types.OCIImageIndex, `{"annotations":{"a":1},"manifests":[]}`, links.Contents{}},
		{"a bad subject", types.OCIImageIndex, `{"subject":{"digest":"x"},"manifests":[]}`, links.Contents{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, links.Parse(tt.mt, fill(tt.raw))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNothing: what can't be read in one way only has no children at all.
func TestNothing(t *testing.T) {
	layer := `{"digest":"$1","size":1}`
	tests := map[string]string{
		"empty":                         ``,
		"not JSON":                      `{"layers":[` + layer + `]`,
		"not an object":                 `[` + layer + `]`,
		"more behind":                   `{"layers":[` + layer + `]}{}`,
		"a key twice":                   `{"layers":[` + layer + `],"layers":[{"digest":"$2"}]}`,
		"a key in two cases":            `{"layers":[` + layer + `],"Layers":[{"digest":"$2"}]}`,
		"a key that folds to another":   `{"layers":[` + layer + `],"layerſ":[{"digest":"$2"}]}`,
		"a key twice, once escaped":     `{"layers":[` + layer + `],"\u006cayers":[{"digest":"$2"}]}`,
		"layers is an object":           `{"layers":{"0":` + layer + `}}`,
		"deeper than anything sane":     strings.Repeat(`{"layers":[`, 20000) + strings.Repeat(`]}`, 20000),
		"more layers than any image":    `{"layers":[` + layer + strings.Repeat(`,`+layer, 20000) + `]}`,
		"larger than a manifest may be": `{"layers":[` + layer + `],"x":"` + strings.Repeat("x", 16<<20) + `"}`,
	}
	for name, raw := range tests {
		t.Run(name, func(t *testing.T) {
			if got := links.Parse(types.OCIManifestSchema1, fill(raw)); len(got.Children) != 0 {
				t.Errorf("%d children: %v", len(got.Children), got.Children[0])
			}
		})
	}
}

// FuzzParse: no input panics, every child is well formed and there once, and nothing but the type's own fields is vouched for.
func FuzzParse(f *testing.F) {
	for _, mt := range []types.MediaType{types.OCIManifestSchema1, types.OCIImageIndex, types.DockerManifestSchema1, links.OCIArtifactManifest, "x/y"} {
		f.Add(string(mt), fill(`{"config":{"digest":"$1","size":1},"layers":[{"digest":"$$2","size":2,"urls":["x"]}],"manifests":[{"digest":"$3"}],"blobs":[{"digest":"$4"}],
			"fsLayers":[{"blobSum":"$5"}],"subject":{"digest":"$6"},"artifactType":"a/b","annotations":{"a":"b"}}`))
	}
	f.Add("", []byte(`{"layers":[],"layers":[]}`))
	f.Fuzz(func(t *testing.T, mt string, raw []byte) {
		c := links.Parse(types.MediaType(mt), raw)
		if !json.Valid(raw) && !cmp.Equal(c, links.Contents{}) {
			t.Errorf("read out of what is no JSON: %v", c)
		}
		type key struct {
			d v1.Hash
			k links.Kind
		}
		seen := map[key]bool{}
		for _, child := range c.Children {
			if _, err := v1.NewHash(child.Digest.String()); child.Digest.Algorithm == "sha256" && err != nil {
				t.Errorf("digest %v: %v", child.Digest, err)
			}
			if child.Size < 0 || seen[key{child.Digest, child.Kind}] {
				t.Errorf("child %v", child)
			}
			seen[key{child.Digest, child.Kind}] = true
			if child.Vouched && mt == "x/y" {
				t.Errorf("vouched by an unknown type: %v", child)
			}
		}
	})
}
