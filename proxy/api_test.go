package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/internal/registrytest"
	"github.com/entrepot/entrepot/proxy"
)

// TestTagsAreAskedForAtEachPull: a moved tag is seen at the next pull, an unmoved one costs a HEAD.
func TestTagsAreAskedForAtEachPull(t *testing.T) {
	s := newStand(t, setup{})
	one := s.registry.AddManifest(repo, "v1", types.OCIManifestSchema1, []byte(`{"schemaVersion":2,"n":1}`))
	steps := []struct {
		do         func()
		want       string // body
		cached     string
		heads, get int // asked of the upstream
	}{
		{func() {}, `{"schemaVersion":2,"n":1}`, "MISS", 0, 1},
		{func() {}, `{"schemaVersion":2,"n":1}`, "REVALIDATED", 1, 0},
		{func() {
			s.registry.AddManifest(repo, "v1", types.DockerManifestSchema2, []byte(`{"schemaVersion":2,"n":2}`))
		}, `{"schemaVersion":2,"n":2}`, "MISS", 1, 1},
		{func() { s.registry.Tag(repo, "v1", one.Digest) }, `{"schemaVersion":2,"n":1}`, "REVALIDATED", 1, 0},
	}
	for i, step := range steps {
		step.do()
		s.registry.Reset()
		r := s.get(manifestPath("v1"))
		if r.status != 200 || string(r.body) != step.want || r.header.Get("X-Cache") != step.cached {
			t.Errorf("step %d: %v", i, r)
		}
		count := func(method string) int {
			return s.registry.Requests(registrytest.Match{Kind: registrytest.KindManifest, Method: method})
		}
		if count("HEAD") != step.heads || count("GET") != step.get {
			t.Errorf("step %d: %d HEADs and %d GETs upstream, want %d and %d", i, count("HEAD"), count("GET"), step.heads, step.get)
		}
	}
	s.registry.Untag(repo, "v1")
	if r := s.get(manifestPath("v1")); r.status != 404 {
		t.Errorf("a deleted tag: %v", r)
	}
	if r := s.get(manifestPath(one.Digest.String())); r.status != 200 {
		t.Errorf("its manifest by digest: %v", r)
	}
	s.registry.Pause()
	if r := s.get(manifestPath("v1")); r.status != 503 {
		t.Errorf("a deleted tag, the upstream gone: %v, want 503", r)
	}
}

// TestFreshness: what the policy calls fresh or immutable is not asked for, what it calls too old not served.
func TestFreshness(t *testing.T) {
	rows := []struct {
		name   string
		policy proxy.Policy
		heads  int
		gone   int // status with the upstream gone
	}{
		{"asked each time", proxy.Policy{StaleFor: time.Hour, WaitFresh: time.Second}, 1, 200},
		{"fresh", proxy.Policy{FreshFor: time.Hour, StaleFor: time.Hour, WaitFresh: time.Second}, 0, 200},
		{"immutable", proxy.Policy{StaleFor: time.Hour, WaitFresh: time.Second, Moves: func(tag string) bool { return tag != "v1" }}, 0, 200},
		{"never stale", proxy.Policy{StaleFor: time.Nanosecond, WaitFresh: time.Second}, 1, 503},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t, setup{policy: row.policy})
			s.registry.AddImage(repo, "v1")
			s.get(manifestPath("v1"))
			s.registry.Reset()
			s.get(manifestPath("v1"))
			if n := s.registry.Requests(registrytest.Match{Method: "HEAD"}); n != row.heads {
				t.Errorf("%d HEADs, want %d", n, row.heads)
			}
			s.registry.Pause()
			if r := s.get(manifestPath("v1")); r.status != row.gone {
				t.Errorf("the upstream gone: %v, want %d", r, row.gone)
			}
		})
	}
}

// TestOneQuestion: a thousand pulls of one tag ask once.
func TestOneQuestion(t *testing.T) {
	s := newStand(t, setup{})
	s.registry.AddImage(repo, "v1")
	s.get(manifestPath("v1"))
	s.registry.Reset()
	s.registry.Break(registrytest.Fault{Match: registrytest.Match{Method: "HEAD"}, Delay: 500 * time.Millisecond})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if r := s.get(manifestPath("v1")); r.status != 200 {
				t.Errorf("got %v", r)
			}
		})
	}
	wg.Wait()
	if n := s.registry.Requests(registrytest.Match{Kind: registrytest.KindManifest}); n > 2 { // late-comers may ask again
		t.Errorf("%d questions upstream, want 1", n)
	}
}

// TestSlowUpstream: past waitFresh a stale tag is served while the question goes on.
func TestSlowUpstream(t *testing.T) {
	s := newStand(t, setup{policy: proxy.Policy{StaleFor: time.Hour, WaitFresh: 200 * time.Millisecond}})
	s.registry.AddImage(repo, "v1")
	s.get(manifestPath("v1"))
	s.registry.Break(registrytest.Fault{StallHeaders: true})
	start := time.Now()
	r := s.get(manifestPath("v1"))
	if took := time.Since(start); r.status != 200 || r.header.Get("X-Cache") != "STALE" || took > 2*time.Second {
		t.Errorf("after %v: %v", took, r)
	}
	if age, err := strconv.Atoi(r.header.Get("Age")); err != nil || age < 0 || r.header.Get("Warning") != `110 - "Response is Stale"` {
		t.Errorf("headers %v", r.header)
	}
	s.registry.Heal()
}

// TestRefusalsAreNotMasked: what the upstream says about the content is passed on, cached or not.
func TestRefusalsAreNotMasked(t *testing.T) {
	for status, want := range map[int]int{401: 403, 403: 403, 404: 404} {
		s := newStand(t, setup{})
		s.registry.AddImage(repo, "v1")
		s.get(manifestPath("v1"))
		s.registry.Break(registrytest.Fault{Status: status})
		if r := s.get(manifestPath("v1")); r.status != want {
			t.Errorf("the upstream answers %d: %v, want %d", status, r, want)
		}
	}
}

// TestRepositoriesAreApart: content is served through those repositories alone that have it upstream.
func TestRepositoriesAreApart(t *testing.T) {
	s := newStand(t, setup{})
	secret := content(11, 300_000)
	img := s.registry.AddImage("private/app", "v1", secret)
	s.registry.AddImage("public/app", "v1", content(12, 100))
	layer, manifest := img.Layers[0].Digest.String(), img.Manifest.Digest.String()
	for _, path := range []string{"/v2/private/app/manifests/v1", "/v2/private/app/blobs/" + layer} {
		if r := s.get(path); r.status != 200 {
			t.Fatalf("%s: %v", path, r)
		}
	}
	s.settle()
	for _, path := range []string{"/v2/public/app/blobs/" + layer, "/v2/public/app/manifests/" + manifest, "/v2/public/app/blobs/" + manifest} {
		for _, method := range []string{"GET", "HEAD"} {
			if r := s.ask(method, path); r.status != 404 {
				t.Errorf("%s %s: %v, want 404", method, path, r)
			}
		}
	}
	if r := s.get("/v2/private/app/manifests/" + layer); r.status != 404 {
		t.Errorf("a layer asked for as a manifest: %v, want 404 (CVE-2021-41190)", r)
	}
	// The other repository has it too: the upstream is asked, and nothing is fetched again.
	s.registry.AddBlob("public/app", secret)
	s.registry.Reset()
	if r := s.get("/v2/public/app/blobs/" + layer); !r.whole(secret) || r.header.Get("X-Cache") != "HIT" {
		t.Errorf("got %v", r)
	}
	if n := s.blobBytes(); n > 1 {
		t.Errorf("%d bytes were fetched to confirm a right", n)
	}
	s.registry.Pause()
	if r := s.get("/v2/public/app/blobs/" + layer); !r.whole(secret) {
		t.Errorf("with the upstream gone: %v", r)
	}
}

// TestAWriterOfManifestsGainsNothing: a manifest that names another repository's blob as its subject or by
// urls gives no right to it.
func TestAWriterOfManifestsGainsNothing(t *testing.T) {
	s := newStand(t, setup{})
	secret := content(13, 5000)
	d := s.registry.AddBlob("private/app", secret).Digest
	s.get("/v2/private/app/blobs/" + d.String())
	s.settle()
	for i, raw := range []string{
		fmt.Sprintf(`{"schemaVersion":2,"layers":[],"subject":{"mediaType":"x/y","digest":%q,"size":5000}}`, d),
		fmt.Sprintf(`{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":5000,"urls":["http://x"]}]}`, d),
		fmt.Sprintf(`{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":5000}]}`, d),
	} {
		tag := "evil" + strconv.Itoa(i)
		s.registry.AddManifest("evil/app", tag, types.OCIManifestSchema1, []byte(raw))
		if r := s.get("/v2/evil/app/manifests/" + tag); r.status != 200 {
			t.Fatalf("got %v", r)
		}
		if r := s.get("/v2/evil/app/blobs/" + d.String()); r.status != 404 {
			t.Errorf("manifest %d opens another repository's blob: %v", i, r)
		}
	}
}

// TestManifestsAreVerbatim: bytes, media type and digest, whatever they are.
func TestManifestsAreVerbatim(t *testing.T) {
	s := newStand(t, setup{})
	large := []byte(`{"schemaVersion":2,"annotations":{"a":"` + strings.Repeat("x", 15<<20) + `"}}`)
	rows := []struct {
		alg string
		mt  types.MediaType
		raw []byte
	}{
		{"sha256", types.OCIImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`)},
		{"sha256", types.DockerManifestSchema1Signed, []byte("{\n   \"schemaVersion\": 1\n}")},
		{"sha256", "application/vnd.example+json", []byte(`not even JSON`)},
		{"sha512", types.OCIManifestSchema1, []byte(`{"schemaVersion":2,"layers":[]}`)},
		{"sha256", types.OCIManifestSchema1, large},
	}
	for i, row := range rows {
		tag := fmt.Sprintf("t%d", i)
		d := s.registry.AddManifestAlg(repo, tag, row.alg, row.mt, row.raw).Digest
		for pass, ref := range []string{d.String(), tag, d.String()} {
			for _, method := range []string{"HEAD", "GET"} {
				r := s.ask(method, manifestPath(ref))
				if r.status != 200 || r.header.Get("Content-Type") != string(row.mt) || r.header.Get("Content-Length") != strconv.Itoa(len(row.raw)) {
					t.Fatalf("%d, pass %d, %s: %v", i, pass, method, r)
				}
				if want := d.String(); r.header.Get("Docker-Content-Digest") != want && ref == want {
					t.Errorf("%d, %s: digest %q, want %q", i, method, r.header.Get("Docker-Content-Digest"), want)
				}
				if method == "GET" && !bytes.Equal(r.body, row.raw) {
					t.Errorf("%d: other bytes", i)
				}
			}
		}
	}
	tooLarge := append(bytes.Clone(large), bytes.Repeat([]byte(" "), 2<<20)...)
	s.registry.AddManifest(repo, "huge", types.OCIManifestSchema1, tooLarge)
	if r := s.get(manifestPath("huge")); r.status != 503 {
		t.Errorf("a manifest beyond 16 MiB: %v, want 503", r)
	}
}

func TestConditionsAndRanges(t *testing.T) {
	s := newStand(t, setup{})
	want := content(14, 2*mib)
	d := s.registry.AddBlob(repo, want).Digest
	etag := `"` + d.String() + `"`
	path := blobPath(d)
	if r := s.ask("HEAD", path); r.status != 200 || r.header.Get("Content-Length") != strconv.Itoa(len(want)) || s.store.Stats().Fills != 0 {
		t.Errorf("HEAD of what is not here: %v", r)
	}
	if n := s.blobBytes(); n > 0 {
		t.Errorf("a HEAD has fetched %d bytes", n)
	}
	for _, state := range []string{"absent", "here"} {
		rows := []struct {
			header []string
			status int
			rng    string // Content-Range
			n      int
		}{
			{[]string{"If-None-Match", etag}, 304, "", 0},
			{[]string{"Range", "bytes=2097152-"}, 416, "bytes */2097152", -1},
			{[]string{"Range", "bytes=500-0"}, 416, "", -1},
			{[]string{"Range", "bytes=0-99"}, 206, "bytes 0-99/2097152", 100},
			{[]string{"Range", "bytes=2097151-9999999"}, 206, "bytes 2097151-2097151/2097152", 1},
			{[]string{"Range", "bytes=-1"}, 206, "bytes 2097151-2097151/2097152", 1},
			{[]string{"Range", "bytes=0-9", "If-Range", etag}, 206, "bytes 0-9/2097152", 10},
			{[]string{"Range", "bytes=0-9", "If-Range", `"other"`}, 200, "", len(want)},
			{[]string{"Range", "lines=1-2"}, 200, "", len(want)},
			{[]string{"If-None-Match", `"other"`}, 200, "", len(want)},
		}
		for _, row := range rows {
			r := s.get(path, row.header...)
			if r.status != row.status || r.err != nil || row.rng != "" && r.header.Get("Content-Range") != row.rng || row.n >= 0 && len(r.body) != row.n {
				t.Errorf("%s, %v: %v", state, row.header, r)
			}
			if r.status < 300 && (r.header.Get("ETag") != etag || r.header.Get("Docker-Content-Digest") != d.String() || r.header.Get("Content-Type") != "application/octet-stream" || r.header.Get("X-Content-Type-Options") != "nosniff") {
				t.Errorf("%s, %v: headers %v", state, row.header, r.header)
			}
		}
		s.settle()
	}
	if r := s.get(manifestPath("none"), "Range", "bytes=0-"); r.status != 404 {
		t.Errorf("got %v", r)
	}
}

func TestTagsList(t *testing.T) {
	s := newStand(t, setup{registry: registrytest.Options{Page: 3}})
	for _, tag := range []string{"b", "a", "10", "9", "c", "d", "A"} {
		s.registry.AddManifest(repo, tag, types.OCIManifestSchema1, []byte(`{}`))
	}
	rows := []struct {
		query  string
		status int
		want   []string
		next   string
	}{
		{"", 200, []string{"10", "9", "A", "a", "b", "c", "d"}, ""},
		{"?n=2", 200, []string{"10", "9"}, "/v2/registry.test/team/app/tags/list?last=9&n=2"},
		{"?n=2&last=9", 200, []string{"A", "a"}, "/v2/registry.test/team/app/tags/list?last=a&n=2"},
		{"?last=b", 200, []string{"c", "d"}, ""},
		{"?n=2&last=b", 200, []string{"c", "d"}, ""},
		{"?n=0", 200, []string{}, ""},
		{"?n=100", 200, []string{"10", "9", "A", "a", "b", "c", "d"}, ""},
		{"?n=-1", 400, nil, ""},
		{"?n=x", 400, nil, ""},
		{"?n=1&ns=registry.test", 404, nil, ""}, // with ns the whole path is the repository's name
	}
	for _, row := range rows {
		r := s.get("/v2/registry.test/" + repo + "/tags/list" + row.query)
		if r.status != row.status {
			t.Errorf("%s: %v", row.query, r)
			continue
		}
		if row.status != 200 {
			continue
		}
		var list struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(r.body, &list); err != nil || list.Name != repo {
			t.Errorf("%s: %v, %v", row.query, r, err)
		}
		if diff := cmp.Diff(row.want, list.Tags); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.query, diff)
		}
		link := r.header.Get("Link")
		if want := row.next; want == "" && link != "" || want != "" && link != "<"+want+`>; rel="next"` {
			t.Errorf("%s: Link %q, want %q", row.query, link, want)
		}
	}
	if r := s.get("/v2/" + repo + "/tags/list?n=1&ns=registry.test"); !strings.Contains(r.header.Get("Link"), "ns=registry.test") {
		t.Errorf("the Link loses the ns: %v", r)
	}
}

func TestReferrers(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprintf("API %v", api), func(t *testing.T) {
			s := newStand(t, setup{registry: registrytest.Options{NoReferrers: !api}})
			img := s.registry.AddImage(repo, "v1")
			sbom := s.registry.AddReferrer(repo, img.Manifest, "application/spdx+json", map[string]string{"k": "v"})
			sig := s.registry.AddReferrer(repo, img.Manifest, "application/sig", nil)
			if !api { // the tag that stands in for it
				index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{
					{MediaType: types.OCIManifestSchema1, Digest: sbom.Digest, Size: sbom.Size, ArtifactType: "application/spdx+json", Annotations: map[string]string{"k": "v"}},
					{MediaType: types.OCIManifestSchema1, Digest: sig.Digest, Size: sig.Size, ArtifactType: "application/sig"},
				}}
				raw, err := json.Marshal(index)
				if err != nil {
					t.Fatal(err)
				}
				s.registry.AddManifest(repo, "sha256-"+img.Manifest.Digest.Hex, types.OCIImageIndex, raw)
			}
			path := "/v2/" + repo + "/referrers/"
			check := func(query string, want int, filtered bool) {
				t.Helper()
				r := s.get(path + img.Manifest.Digest.String() + query)
				var index v1.IndexManifest
				if err := json.Unmarshal(r.body, &index); err != nil || r.status != 200 || r.header.Get("Content-Type") != string(types.OCIImageIndex) {
					t.Fatalf("%s: %v, %v", query, r, err)
				}
				if len(index.Manifests) != want || index.SchemaVersion != 2 || (r.header.Get("OCI-Filters-Applied") == "artifactType") != filtered {
					t.Errorf("%s: %v", query, r)
				}
				for _, d := range index.Manifests {
					if d.Digest == sbom.Digest && (d.ArtifactType != "application/spdx+json" || d.Annotations["k"] != "v") {
						t.Errorf("%s: %+v", query, d)
					}
				}
			}
			check("", 2, false)
			check("?artifactType=application/spdx%2Bjson", 1, true)
			check("?artifactType=none", 0, true)
			if r := s.get(path + hash256.String()); r.status != 200 || !strings.Contains(string(r.body), `"manifests":[]`) {
				t.Errorf("no referrers: %v", r)
			}
			if r := s.get(manifestPath(sbom.Digest.String())); r.status != 200 {
				t.Fatalf("got %v", r)
			}
			s.registry.Pause()
			check("", 1, false) // the one that was pulled
		})
	}
}

// TestTurnedAway: who may not ask, and what is no request.
func TestTurnedAway(t *testing.T) {
	s := newStand(t, setup{})
	rows := []struct {
		name, method, path string
		header             []string
		host               string
		status             int
		code               string
	}{
		{"unknown upstream", "GET", "/v2/evil.example/a/manifests/v1", nil, "", 403, "DENIED"},
		{"unknown ns", "GET", "/v2/a/manifests/v1?ns=evil.example", nil, "", 403, "DENIED"},
		{"unknown ns by header", "GET", "/v2/a/manifests/v1", []string{"OCI-Namespace", "evil.example"}, "", 403, "DENIED"},
		{"push", "PUT", "/v2/a/manifests/v1", nil, "", 405, "UNSUPPORTED"},
		{"a loop", "GET", "/v2/a/manifests/v1", []string{"Via", "1.1 other, 1.1 entrepot-test"}, "", 508, "UNSUPPORTED"},
		{"another host on loopback", "GET", "/v2/", nil, "rebound.example:5000", 421, "DENIED"},
		{"a bad range", "GET", blobPath(hash256), []string{"Range", "bytes=a-b"}, "", 416, "SIZE_INVALID"},
		{"an endless range list", "GET", blobPath(hash256), []string{"Range", "bytes=" + strings.Repeat("0-1,", 1000)}, "", 416, "SIZE_INVALID"},
		{"a bad digest", "GET", "/v2/a/blobs/sha256:x", nil, "", 400, "DIGEST_INVALID"},
		{"a bad name", "GET", "/v2/A/manifests/v1", nil, "", 400, "NAME_INVALID"},
	}
	for _, row := range rows {
		rq, err := http.NewRequest(row.method, s.url+row.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(row.header); i += 2 {
			rq.Header.Set(row.header[i], row.header[i+1])
		}
		rq.Host = row.host
		resp, err := s.client.Do(rq)
		if err != nil {
			t.Fatal(err)
		}
		var body struct {
			Errors []struct{ Code, Message string }
		}
		err = json.NewDecoder(resp.Body).Decode(&body)
		resp.Body.Close()
		if resp.StatusCode != row.status || err != nil || len(body.Errors) != 1 || body.Errors[0].Code != row.code || body.Errors[0].Message == "" {
			t.Errorf("%s: %d %+v %v, want %d %s", row.name, resp.StatusCode, body, err, row.status, row.code)
		}
		if resp.Header.Get("X-Request-Id") == "" || row.status == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: headers %v", row.name, resp.Header)
		}
	}
	if n := s.registry.Connections(); n != 0 {
		t.Errorf("%d connections were opened for requests that were refused", n)
	}
	s.noErrors()
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "level=WARN") && !strings.Contains(line, "status=508") {
			t.Errorf("a client's mistake is logged as a warning: %s", line)
		}
	}
}

// TestNoRoom: what the disk can't take is passed on, verified, and counted.
func TestNoRoom(t *testing.T) {
	s := newStand(t, setup{cache: cache.Options{Size: func(int64) int64 { return mib }}})
	want := content(15, 3*mib)
	d := s.registry.AddBlob(repo, want).Digest
	if r := s.get(blobPath(d)); !r.whole(want) {
		t.Errorf("whole: %v", r)
	}
	if r := s.get(blobPath(d), "Range", "bytes=1000-1999"); r.status != 206 || !bytes.Equal(r.body, want[1000:2000]) {
		t.Errorf("a range: %v", r)
	}
	if st := s.store.Stats(); st.Through < 2 || st.BytesHeld > mib {
		t.Errorf("stats %+v", st)
	}
	s.registry.Break(registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindBlob, Method: "GET"}, CorruptAt: 100})
	if r := s.get(blobPath(d)); r.err == nil && r.status == 200 {
		t.Errorf("a wrong body was ended cleanly: %v", r)
	}
}
