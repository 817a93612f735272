//go:build linux

package e2e

import (
	"encoding/json"
	"net/url"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// referrers asks for what refers to an image. The upstream does not know that
// question, so the answer comes from the tag that stands in for it; and later,
// with the upstream gone, from what is here.
func (s *suite) referrers(t *testing.T) {
	r := s.upstream(t)
	line := newLink(t, r.addr)
	d := s.daemon(t, upstreams{"registry.test": line.addr})
	list := "/v2/registry.test/app/referrers/" + r.digest.String()
	ask := func(query string) []v1.Descriptor {
		t.Helper()
		raw, err := d.get(list + query)
		if err != nil {
			t.Fatal(err)
		}
		var index v1.IndexManifest
		if err := json.Unmarshal(raw, &index); err != nil {
			t.Fatal(err)
		}
		return index.Manifests
	}
	check := func(got []v1.Descriptor) {
		t.Helper()
		if len(got) != 1 || got[0].Digest != r.artifact.Digest || got[0].Size != r.artifact.Size || got[0].ArtifactType != artifactType {
			t.Errorf("referrers: %+v, want one: %s of %d bytes, type %s", got, r.artifact.Digest, r.artifact.Size, artifactType)
		}
	}
	check(ask(""))
	check(ask("?artifactType=" + url.QueryEscape(artifactType)))
	if got := ask("?artifactType=text/plain"); len(got) != 0 {
		t.Errorf("referrers of another type: %+v, want none", got)
	}
	fetchArtifact(t, d, r)
	line.cut()
	fetchArtifact(t, d, r)
	check(ask(""))
}

// fetchArtifact pulls the artifact's manifest and what it lists, each verified.
func fetchArtifact(t *testing.T, d *daemon, r *registry) {
	t.Helper()
	fetch := func(path string, want v1.Hash) []byte {
		t.Helper()
		raw, err := d.get("/v2/registry.test/app/" + path + "/" + want.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256Of(raw); got != want {
			t.Fatalf("%s %s came as %s", path, want, got)
		}
		return raw
	}
	var m v1.Manifest
	if err := json.Unmarshal(fetch("manifests", r.artifact.Digest), &m); err != nil {
		t.Fatal(err)
	}
	if m.Subject == nil || m.Subject.Digest != r.digest {
		t.Fatalf("the artifact's subject is %v, want %s", m.Subject, r.digest)
	}
	for _, b := range append(m.Layers, m.Config) {
		fetch("blobs", b.Digest)
	}
}
