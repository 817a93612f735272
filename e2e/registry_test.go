//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// artifactType is that of the artifact that refers to the first registry's image.
const artifactType = "application/vnd.example.report.v1+json"

// A registry is a docker-registry with one multi-arch image, as app:1 and library/app:1.
type registry struct {
	addr string
	*content
	artifact v1.Descriptor // its subject is the index; in app only
}

// upstream returns the first registry, whose image has a layer above 300 MiB, and an artifact.
func (s *suite) upstream(t *testing.T) *registry {
	t.Helper()
	if s.first == nil {
		sizes := []int64{301 << 20}
		for i := range int64(10) {
			sizes = append(sizes, (1+i%3)<<20)
		}
		s.first = s.registry(t, "first", 1, sizes)
		s.first.pushArtifact(t)
	}
	return s.first
}

// another returns a second registry with another image, of many layers.
func (s *suite) another(t *testing.T) *registry {
	t.Helper()
	if s.second == nil {
		var sizes []int64
		for range 16 {
			sizes = append(sizes, 6<<20)
		}
		s.second = s.registry(t, "second", 1000, sizes)
	}
	return s.second
}

// registry starts a docker-registry that lives as long as the suite, and fills it.
func (s *suite) registry(t *testing.T, name string, seed uint64, sizes []int64) *registry {
	t.Helper()
	s.need(t, "docker-registry")
	r := &registry{addr: freeAddr(t)}
	dir := filepath.Join(s.dir, name)
	write(t, filepath.Join(dir, "config.yml"), fmt.Sprintf(`
version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: %q}
http: {addr: %q}
`, dir, r.addr))
	var err error
	if r.content, err = newContent(dir, name, seed, sizes); err != nil {
		t.Fatal(err)
	}
	p := start(s.t, filepath.Join(dir, "log"), exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml")))
	p.await(t, "an answer to GET /v2/", 15*time.Second, func() error {
		_, err := get("http://" + r.addr + "/v2/")
		return err
	})
	r.push(t)
	return r
}

// push fills the registry. For the second repository layers are mounted, not sent again.
func (r *registry) push(t *testing.T) {
	t.Helper()
	there := remote.WithContext(t.Context())
	if err := remote.WriteIndex(r.ref(t, "app:1"), r.index, there); err != nil {
		t.Fatalf("fill the upstream: %v", err)
	}
	index, err := remote.Index(r.ref(t, "app:1"), there)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r.ref(t, "library/app:1"), index, there); err != nil {
		t.Fatalf("fill the upstream: %v", err)
	}
}

func (r *registry) ref(t *testing.T, to string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.addr+"/"+to, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// pushArtifact pushes an artifact whose subject is the index. This registry has
// no referrers API, so there is the tag that the specification wants instead.
func (r *registry) pushArtifact(t *testing.T) {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), artifactType)
	img, err := mutate.AppendLayers(img, static.NewLayer([]byte(`{"findings": []}`), types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(r.raw))
	subject := v1.Descriptor{MediaType: types.OCIImageIndex, Digest: r.digest, Size: size}
	artifact, ok := mutate.Subject(img, subject).(v1.Image)
	if !ok {
		t.Fatal("an image with a subject is no image")
	}
	digest, err := artifact.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r.ref(t, "app@"+digest.String()), artifact, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("push the artifact: %v", err)
	}
	if r.artifact.Size, err = artifact.Size(); err != nil {
		t.Fatal(err)
	}
	r.artifact.Digest, r.artifact.MediaType = digest, types.OCIManifestSchema1
	url := fmt.Sprintf("http://%s/v2/app/referrers/%s", r.addr, r.digest)
	if resp, err := http.Head(url); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("this docker-registry is expected to have no referrers API: %v %v", resp, err)
	}
	if _, err := remote.Head(r.ref(t, fmt.Sprintf("app:sha256-%s", r.digest.Hex))); err != nil {
		t.Fatalf("there is no tag that stands in for the referrers API: %v", err)
	}
}
