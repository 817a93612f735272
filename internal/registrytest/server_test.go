package registrytest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/internal/registrytest"
)

func TestManifests(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	c := client(t, s, false)
	img := s.AddImage(repo, "v1", []byte("layer"))
	long := s.AddManifestAlg(repo, "long", "sha512", types.OCIManifestSchema1, img.Raw)
	base := s.URL() + "/v2/" + repo + "/manifests/"
	for _, tt := range []struct {
		ref    string
		status int
		digest string
	}{
		{"v1", 200, img.Manifest.Digest.String()},
		{img.Manifest.Digest.String(), 200, img.Manifest.Digest.String()},
		{long.Digest.String(), 200, long.Digest.String()},
		{"long", 200, long.Digest.String()},
		{"v2", 404, ""},
		{"sha256:0123", 400, ""},
		{img.Config.Digest.String(), 404, ""}, // a blob is no manifest
	} {
		got, head := get(t, c, base+tt.ref), ask(testContext(t), t, c, http.MethodHead, base+tt.ref)
		if got.status != tt.status || head.status != tt.status || got.header.Get("Docker-Content-Digest") != tt.digest {
			t.Errorf("%s: status %d, HEAD %d, digest %q", tt.ref, got.status, head.status, got.header.Get("Docker-Content-Digest"))
		}
		for _, key := range []string{"Content-Type", "Content-Length", "Docker-Content-Digest", "Etag"} {
			if g, h := got.header.Get(key), head.header.Get(key); g != h {
				t.Errorf("%s: %s of GET %q, of HEAD %q", tt.ref, key, g, h)
			}
		}
		if tt.status == 200 && (!bytes.Equal(got.body, img.Raw) || got.header.Get("Content-Type") != string(types.OCIManifestSchema1)) {
			t.Errorf("%s: %q as %q", tt.ref, got.body, got.header.Get("Content-Type"))
		}
	}
	if got := get(t, c, base+"v1", "If-None-Match", `"`+img.Manifest.Digest.String()+`"`); got.status != 304 {
		t.Errorf("If-None-Match: %d, want 304", got.status)
	}
	s.Untag(repo, "v1")
	if got := get(t, c, base+"v1"); got.status != 404 {
		t.Errorf("untagged: %d, want 404", got.status)
	}
	s.Tag(repo, "v3", img.Manifest.Digest)
	if got := get(t, c, base+"v3"); got.status != 200 {
		t.Errorf("tagged anew: %d, want 200", got.status)
	}
	s.Delete(repo, "v3")
	if got := get(t, c, base+img.Manifest.Digest.String()); got.status != 404 {
		t.Errorf("deleted: %d, want 404", got.status)
	}
}

func TestBlobRanges(t *testing.T) {
	content := []byte("0123456789")
	for _, tt := range []struct {
		rng, body, contentRange string
		status                  int
	}{
		{"", "0123456789", "", 200},
		{"bytes=2-4", "234", "bytes 2-4/10", 206},
		{"bytes=7-", "789", "bytes 7-9/10", 206},
		{"bytes=-3", "789", "bytes 7-9/10", 206},
		{"bytes=-30", "0123456789", "bytes 0-9/10", 206},
		{"bytes=8-99", "89", "bytes 8-9/10", 206},
		{"bytes=0-0", "0", "bytes 0-0/10", 206},
		{"bytes=10-", "", "bytes */10", 416},
		{"bytes=5-2", "", "bytes */10", 416},
		{"bytes=-0", "", "bytes */10", 416},
		{"bytes=0-1,3-4", "0123456789", "", 200},
		{"chars=0-1", "0123456789", "", 200},
		{"bytes=x-1", "0123456789", "", 200},
	} {
		for _, o := range []registrytest.Options{{}, {Storage: true}} {
			s := registrytest.Start(t, o)
			c := client(t, s, false)
			d := s.AddBlob(repo, content)
			url := s.URL() + "/v2/" + repo + "/blobs/" + d.Digest.String()
			if o.Storage {
				url = get(t, c, url).header.Get("Location")
			}
			got := get(t, c, url, "Range", tt.rng)
			if got.status != tt.status || got.header.Get("Content-Range") != tt.contentRange {
				t.Errorf("%q: status %d, Content-Range %q", tt.rng, got.status, got.header.Get("Content-Range"))
			}
			if tt.status < 300 && string(got.body) != tt.body {
				t.Errorf("%q: %q, want %q", tt.rng, got.body, tt.body)
			}
		}
	}
}

func TestBlobsThatAreNot(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	c := client(t, s, false)
	d := s.AddBlob(repo, nil)
	for _, tt := range []struct {
		method, path string
		status       int
		code         string
	}{
		{http.MethodGet, "/v2/" + repo + "/blobs/" + d.Digest.String(), 200, ""},
		{http.MethodGet, "/v2/other/blobs/" + d.Digest.String(), 404, "BLOB_UNKNOWN"},
		{http.MethodGet, "/v2/" + repo + "/blobs/sha256:xyz", 400, "DIGEST_INVALID"},
		{http.MethodGet, "/v2/Upper/blobs/" + d.Digest.String(), 404, "NAME_UNKNOWN"},
		{http.MethodPut, "/v2/" + repo + "/manifests/v1", 405, "UNSUPPORTED"},
		{http.MethodGet, "/v2/other/tags/list", 404, "NAME_UNKNOWN"},
		{http.MethodGet, "/v2/" + repo + "/referrers/sha256:1", 400, "DIGEST_INVALID"},
		{http.MethodGet, "/v2/", 200, ""},
		{http.MethodGet, "/v2", 200, ""},
		{http.MethodGet, "/v2/x", 404, ""},
		{http.MethodGet, "/", 404, ""},
	} {
		got := ask(testContext(t), t, c, tt.method, s.URL()+tt.path)
		if got.status != tt.status || !strings.Contains(string(got.body), tt.code) {
			t.Errorf("%s %s: %d %s; want %d %s", tt.method, tt.path, got.status, got.body, tt.status, tt.code)
		}
	}
}

func TestTags(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Page: 3})
	c := client(t, s, false)
	for _, tag := range []string{"c", "a", "b", "e", "d"} {
		s.AddManifest(repo, tag, "application/json", []byte("{}"))
	}
	for _, tt := range []struct {
		query, tags string
		status      int
		next        bool
	}{
		{"", "a b c", 200, true},
		{"?n=2", "a b", 200, true},
		{"?n=2&last=b", "c d", 200, true},
		{"?last=bb", "c d e", 200, false},
		{"?n=9&last=d", "e", 200, false},
		{"?last=e", "", 200, false},
		{"?n=0", "", 200, false},
		{"?n=-1", "", 400, false},
		{"?n=x", "", 400, false},
	} {
		got := get(t, c, s.URL()+"/v2/"+repo+"/tags/list"+tt.query)
		var list struct{ Tags []string }
		if err := json.Unmarshal(got.body, &list); err != nil {
			t.Errorf("%q: %v", tt.query, err)
		}
		if got.status != tt.status || strings.Join(list.Tags, " ") != tt.tags || (got.header.Get("Link") != "") != tt.next {
			t.Errorf("%q: %d %v, Link %q", tt.query, got.status, list.Tags, got.header.Get("Link"))
		}
	}
}

func TestReferrers(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	c := client(t, s, false)
	img := s.AddImage(repo, "v1")
	sbom := s.AddReferrer(repo, img.Manifest, "application/sbom", map[string]string{"k": "v"})
	sig := s.AddReferrer(repo, img.Manifest, "", nil)
	base := s.URL() + "/v2/" + repo + "/referrers/"
	for _, tt := range []struct {
		path    string
		want    []v1.Hash
		applied string
	}{
		{img.Manifest.Digest.String(), []v1.Hash{sbom.Digest, sig.Digest}, ""},
		{img.Manifest.Digest.String() + "?artifactType=application/sbom", []v1.Hash{sbom.Digest}, "artifactType"},
		{img.Manifest.Digest.String() + "?artifactType=" + url.QueryEscape(string(types.OCIEmptyJSON)), []v1.Hash{sig.Digest}, "artifactType"},
		{sbom.Digest.String(), nil, ""},
	} {
		got := get(t, c, base+tt.path)
		index, err := v1.ParseIndexManifest(bytes.NewReader(got.body))
		if err != nil {
			t.Fatal(err)
		}
		var have []v1.Hash
		for _, d := range index.Manifests {
			have = append(have, d.Digest)
		}
		if !slices.Equal(have, tt.want) || got.header.Get("OCI-Filters-Applied") != tt.applied || index.MediaType != types.OCIImageIndex {
			t.Errorf("%s: %s, applied %q", tt.path, got.body, got.header.Get("OCI-Filters-Applied"))
		}
		if len(have) > 0 && have[0] == sbom.Digest && index.Manifests[0].Annotations["k"] != "v" {
			t.Errorf("%s: annotations lost: %s", tt.path, got.body)
		}
	}
}

func TestLess(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{NoHead: true, NoRanges: true, NoReferrers: true, NoContentDigest: true})
	c := client(t, s, false)
	img := s.AddImage(repo, "v1", []byte("layer"))
	base := s.URL() + "/v2/" + repo
	if got := ask(testContext(t), t, c, http.MethodHead, base+"/manifests/v1"); got.status != 405 {
		t.Errorf("HEAD: %d, want 405", got.status)
	}
	if got := get(t, c, base+"/manifests/v1"); got.status != 200 || got.header.Get("Docker-Content-Digest") != "" {
		t.Errorf("manifest: %d, digest %q", got.status, got.header.Get("Docker-Content-Digest"))
	}
	got := get(t, c, base+"/blobs/"+img.Layers[0].Digest.String(), "Range", "bytes=1-2")
	if got.status != 200 || string(got.body) != "layer" || got.header.Get("Accept-Ranges") != "" {
		t.Errorf("range: %d %q", got.status, got.body)
	}
	if got := get(t, c, base+"/referrers/"+img.Manifest.Digest.String()); got.status != 404 {
		t.Errorf("referrers: %d, want 404", got.status)
	}
}

func TestIndex(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	amd := s.AddImage(repo, "", registrytest.TarGz("file", []byte("x")))
	arm := s.AddImageFor(repo, "", v1.Platform{OS: "linux", Architecture: "arm64"}, []byte("y"))
	s.AddIndex(repo, "v1", amd, arm)
	got := get(t, client(t, s, false), s.URL()+"/v2/"+repo+"/manifests/v1")
	index, err := v1.ParseIndexManifest(bytes.NewReader(got.body))
	if err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 2 || index.Manifests[1].Digest != arm.Manifest.Digest || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("%s", got.body)
	}
	if amd.Layers[0].MediaType != types.OCILayer || arm.Layers[0].MediaType != types.OCIUncompressedLayer {
		t.Errorf("layers as %s and %s", amd.Layers[0].MediaType, arm.Layers[0].MediaType)
	}
}

func TestHTTP2(t *testing.T) {
	for _, offered := range []bool{true, false} {
		s := registrytest.Start(t, registrytest.Options{TLS: true, HTTP2: offered})
		if s.CAFile(t.TempDir()) == "" {
			t.Error("no file of the authority")
		}
		c := client(t, s, offered)
		want := "HTTP/1.1"
		if offered {
			want = "HTTP/2.0"
		}
		if got := get(t, c, s.URL()+"/v2/"); got.proto != want {
			t.Errorf("offered %t: %s %v", offered, got.proto, got.err)
		}
		if log := s.Log(); len(log) != 1 || log[0].Proto != want {
			t.Errorf("offered %t: logged %+v", offered, log)
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Storage: true})
	ctx := testContext(t)
	c := client(t, s, false)
	d := s.AddContent(repo, registrytest.Synthetic(1, blobSize))
	url := get(t, c, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String()).header.Get("Location")
	s.Break(registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindStorage}, StallAt: 1000, Times: 1})
	done := make(chan outcome, 1)
	go func() { done <- ask(ctx, t, c, http.MethodGet, url) }()
	if err := s.WaitStalled(ctx, 1); err != nil {
		t.Fatal(err)
	}
	s.Pause()
	s.Pause()
	if got := <-done; got.err == nil && got.bodyErr == nil {
		t.Error("an open connection outlived the pause")
	}
	for _, url := range []string{s.URL() + "/v2/", url} {
		if got := get(t, c, url); !errors.Is(got.err, syscall.ECONNREFUSED) {
			t.Errorf("paused: %v, want a refused connection", got.err)
		}
	}
	for range 2 {
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, c, url); len(got.body) != blobSize {
		t.Errorf("resumed: %v, %d bytes", got.err, len(got.body))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s.Resume() == nil {
		t.Error("resumed after Close")
	}
}

func TestOptionsThatContradict(t *testing.T) {
	for _, o := range []registrytest.Options{
		{HTTP2: true}, {Auth: "digest"}, {Auth: registrytest.AuthBasic}, {Listen: "nowhere"},
	} {
		if s, err := registrytest.New(o); err == nil {
			t.Errorf("%+v: no error", o)
			_ = s.Close()
		}
	}
}

func TestCAFileIsReadable(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{TLS: true, Names: []string{"registry.test"}})
	pem, err := os.ReadFile(s.CAFile(t.TempDir()))
	if err != nil || !bytes.HasPrefix(pem, []byte("-----BEGIN CERTIFICATE")) {
		t.Errorf("%v %.30q", err, pem)
	}
}
