package proxy_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/internal/registrytest"
	"github.com/entrepot/entrepot/upstream"
)

// quick are timeouts that a test can wait out.
func quick() upstream.Timeouts {
	return upstream.Timeouts{Connect: time.Second, Headers: 2 * time.Second, Stall: 700 * time.Millisecond, Patience: 6 * time.Second}
}

// TestBlobFaults is promise 4 and half of 3: what the first answers get wrong, the client does not notice.
func TestBlobFaults(t *testing.T) {
	const size = 3*mib + 77
	want := content(5, size)
	d := digestOf(want)
	blob := registrytest.Match{Kind: registrytest.KindBlob, Method: "GET"}
	storage := registrytest.Match{Kind: registrytest.KindStorage}
	rows := []struct {
		name   string
		o      registrytest.Options
		faults []registrytest.Fault
		most   float64 // x the size, from upstream
	}{
		{"cut at 60 %", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, CutShare: 0.6}}, 1.02},
		{"reset at 60 %", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, CutShare: 0.6, Reset: true}}, 1.2},
		{"every second one cut", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, CutShare: 0.6}, {Match: blob, Skip: 1, Times: 1, CutShare: 0.3}, {Match: blob, Skip: 2, Times: 1, CutAt: 1}}, 1.02},
		{"cut before the headers", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, CutAt: -1}}, 1.02},
		{"stall in mid-body", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, StallAt: 200_000}}, 1.1},
		{"stall before the headers", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, StallHeaders: true}}, 1.02},
		{"429 twice, Retry-After: 1", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 2, Status: 429, Header: http.Header{"Retry-After": {"1"}}}}, 1.02},
		{"429 for a later range", registrytest.Options{}, []registrytest.Fault{{Match: blob, Skip: 2, Times: 1, Status: 429, Header: http.Header{"Retry-After": {"1"}}}}, 1.02},
		{"500 once", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, Status: 500}}, 1.02},
		{"503 with Retry-After: 1", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, Status: 503, Header: http.Header{"Retry-After": {"1"}}}}, 1.02},
		{"too short for its Content-Length", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, Length: 1000}}, 1.2},
		{"clipped below its range", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, Length: -1000}}, 1.2},
		{"another Content-Range", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, ContentRange: "bytes 100-524387/3145805"}}, 1.2},
		{"no Content-Range to speak of", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, ContentRange: "bytes"}}, 1.2},
		{"an encoding", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, Encoding: "gzip"}}, 1.2},
		{"garbage", registrytest.Options{}, []registrytest.Fault{{Match: blob, Times: 1, Garbage: true}}, 1.02},
		{"no Content-Length", registrytest.Options{}, []registrytest.Fault{{Match: blob, NoLength: true}}, 1.02},
		{"no size at all", registrytest.Options{NoRanges: true}, []registrytest.Fault{{Match: blob, NoLength: true}}, 1.02},
		{"no size at all and cut", registrytest.Options{NoRanges: true}, []registrytest.Fault{{Match: blob, Times: 1, NoLength: true, CutShare: 0.6}, {Match: blob, NoLength: true}}, 1.7},
		{"ranges ignored", registrytest.Options{NoRanges: true}, nil, 1.02},
		{"ranges ignored and cut", registrytest.Options{NoRanges: true}, []registrytest.Fault{{Match: blob, Times: 1, CutShare: 0.6}}, 2.1}, // it has to begin anew
		{"the signed address is refused", registrytest.Options{Storage: true}, []registrytest.Fault{{Match: storage, Skip: 1, Times: 1, Status: 403}}, 1.02},
		{"signed addresses expire at once", registrytest.Options{Storage: true, AddressLife: time.Second, PerConn: 2 << 20}, nil, 1.02},
		{"storage is cut", registrytest.Options{Storage: true}, []registrytest.Fault{{Match: storage, Times: 1, CutShare: 0.6}}, 1.02},
		{"a 404 in between", registrytest.Options{}, []registrytest.Fault{{Match: blob, Skip: 2, Times: 1, Status: 404}}, 1.02},
		{"the token is revoked", registrytest.Options{Auth: registrytest.AuthBearer}, []registrytest.Fault{{Match: blob, Skip: 1, Times: 1, Status: 401}}, 1.02},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, setup{registry: row.o, timeouts: quick(), cache: cache.Options{PieceSize: 512 << 10}})
			s.registry.AddBlob(repo, want)
			s.registry.Break(row.faults...)
			if r := s.get(blobPath(d)); !r.whole(want) {
				t.Fatalf("got %v\n%s", r, s.log)
			}
			s.settle()
			if got := float64(s.blobBytes()) / size; got > row.most {
				t.Errorf("the upstream sent %.3f x, want at most %.2f", got, row.most)
			}
			if r := s.get(blobPath(d)); !r.whole(want) || r.header.Get("X-Cache") != "HIT" {
				t.Errorf("afterwards: %v", r)
			}
			s.noErrors()
		})
	}
}

// TestDamagedBlobs is promise 3: whatever damage, no body is wrong and ended cleanly, nothing
// wrong is kept, and once the upstream is right so are we.
func TestDamagedBlobs(t *testing.T) {
	large, small := content(6, 3*mib), content(7, 100_000)
	blob := registrytest.Match{Kind: registrytest.KindBlob, Method: "GET"}
	rows := []struct {
		name   string
		want   []byte
		rng    string
		fault  registrytest.Fault
		status int // of the first answer; its body may break
	}{
		{"large, first byte, once", large, "", registrytest.Fault{Match: blob, Times: 1, Corrupt: true}, 200},
		{"large, last range", large, "", registrytest.Fault{Match: blob, Skip: 4, Times: 1, CorruptAt: 1000}, 200},
		{"large, open range", large, "bytes=1000-", registrytest.Fault{Match: blob, Times: 1, CorruptAt: 7}, 206},
		{"no size, once", large, "", registrytest.Fault{Match: blob, Times: 1, CorruptAt: 99, IgnoreRange: true, NoLength: true}, 200},
		{"small, once", small, "", registrytest.Fault{Match: blob, Times: 1, CorruptAt: 99}, 200},
		{"small, always", small, "", registrytest.Fault{Match: blob, CorruptAt: 99}, 503},
		{"large, always", large, "", registrytest.Fault{Match: blob, CorruptAt: 99}, 200},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := newStand(t, setup{cache: cache.Options{PieceSize: 512 << 10, Dir: dir}})
			d := s.registry.AddBlob(repo, row.want).Digest
			s.registry.Break(row.fault)
			var header []string
			want := row.want
			if row.rng != "" {
				header, want = []string{"Range", row.rng}, want[1000:]
			}
			for range 3 {
				r := s.get(blobPath(d), header...)
				if r.err == nil && r.status < 300 && string(r.body) != string(want) {
					t.Fatalf("a wrong body was ended cleanly: %v", r)
				}
				if r.status != row.status && r.status != 503 && r.err == nil && string(r.body) != string(want) {
					t.Fatalf("got %v, want %d", r, row.status)
				}
			}
			if row.fault.Times == 1 {
				s.settle()
				if r := s.get(blobPath(d)); !r.whole(row.want) {
					t.Errorf("the next pull: %v", r)
				}
				return
			}
			if r := s.get(blobPath(d)); r.status != 503 || !strings.Contains(string(r.body), host) || r.header.Get("Retry-After") == "" {
				t.Errorf("the next pull: %v, want 503 that names the upstream", r)
			}
			if size, state := s.store.State(d); state == cache.Here {
				t.Errorf("%d damaged bytes are kept", size)
			}
		})
	}
}

// TestWhatAClientIsTold is the status table, for what an upstream does all the time.
func TestWhatAClientIsTold(t *testing.T) {
	raw := []byte(`{"schemaVersion":2}`)
	small := content(8, 1000)
	blob, manifest := registrytest.Match{Kind: registrytest.KindBlob}, registrytest.Match{Kind: registrytest.KindManifest}
	status := func(m registrytest.Match, status int) registrytest.Fault {
		return registrytest.Fault{Match: m, Status: status}
	}
	rows := []struct {
		name   string
		o      registrytest.Options
		fault  registrytest.Fault
		path   string
		status int
		code   string
		retry  bool
	}{
		{"unknown tag", registrytest.Options{}, registrytest.Fault{}, manifestPath("none"), 404, "MANIFEST_UNKNOWN", false},
		{"unknown manifest", registrytest.Options{}, registrytest.Fault{}, manifestPath(hash256.String()), 404, "MANIFEST_UNKNOWN", false},
		{"unknown blob", registrytest.Options{}, registrytest.Fault{}, blobPath(hash256), 404, "BLOB_UNKNOWN", false},
		{"unknown repository", registrytest.Options{}, registrytest.Fault{Match: manifest, Status: 404, Body: `{"errors":[{"code":"NAME_UNKNOWN"}]}`}, manifestPath("v1"), 404, "NAME_UNKNOWN", false},
		{"unknown repository's tags", registrytest.Options{}, registrytest.Fault{}, "/v2/no/such/tags/list", 404, "NAME_UNKNOWN", false},
		{"sign-in wanted", registrytest.Options{Auth: registrytest.AuthBasic, User: "u", Password: "p"}, registrytest.Fault{}, manifestPath("v1"), 403, "DENIED", false},
		{"no token for us", registrytest.Options{Auth: registrytest.AuthBearer, User: "u", Password: "p"}, registrytest.Fault{}, manifestPath("v1"), 403, "DENIED", false},
		{"manifest 401", registrytest.Options{}, status(manifest, 401), manifestPath("v1"), 403, "DENIED", false},
		{"manifest 403", registrytest.Options{}, status(manifest, 403), manifestPath("v1"), 403, "DENIED", false},
		{"manifest 500", registrytest.Options{}, status(manifest, 500), manifestPath("v1"), 503, "UNAVAILABLE", true},
		{"manifest 502", registrytest.Options{}, status(manifest, 502), manifestPath("v1"), 503, "UNAVAILABLE", true},
		{"manifest 429", registrytest.Options{}, status(manifest, 429), manifestPath("v1"), 429, "TOOMANYREQUESTS", true},
		{"manifest, no headers", registrytest.Options{}, registrytest.Fault{Match: manifest, StallHeaders: true}, manifestPath("v1"), 503, "UNAVAILABLE", true},
		{"manifest, garbage", registrytest.Options{}, registrytest.Fault{Match: manifest, Garbage: true}, manifestPath("v1"), 503, "UNAVAILABLE", true},
		{"manifest, wrong bytes", registrytest.Options{}, registrytest.Fault{Match: manifest, Corrupt: true}, manifestPath(digestOf(raw).String()), 503, "UNAVAILABLE", true},
		{"blob 401", registrytest.Options{}, status(blob, 401), blobPath(digestOf(small)), 403, "DENIED", false},
		{"blob 403", registrytest.Options{}, status(blob, 403), blobPath(digestOf(small)), 403, "DENIED", false},
		{"blob 404", registrytest.Options{}, status(blob, 404), blobPath(digestOf(small)), 404, "BLOB_UNKNOWN", false},
		{"blob 500", registrytest.Options{}, status(blob, 500), blobPath(digestOf(small)), 503, "UNAVAILABLE", true},
		{"blob 429", registrytest.Options{}, registrytest.Fault{Match: blob, Status: 429, Header: http.Header{"Retry-After": {"30"}}}, blobPath(digestOf(small)), 429, "TOOMANYREQUESTS", true},
		{"blob, no headers", registrytest.Options{}, registrytest.Fault{Match: blob, StallHeaders: true}, blobPath(digestOf(small)), 503, "UNAVAILABLE", true},
		{"a redirect to the metadata service", registrytest.Options{}, registrytest.Fault{Match: blob, Redirect: "http://169.254.169.254/latest/meta-data/"}, blobPath(digestOf(small)), 403, "DENIED", false},
		{"a redirect to it by another spelling", registrytest.Options{}, registrytest.Fault{Match: blob, Redirect: "http://[::ffff:169.254.169.254]/"}, blobPath(digestOf(small)), 403, "DENIED", false},
		{"a realm at the metadata service", registrytest.Options{}, registrytest.Fault{Match: manifest, Status: 401, Header: http.Header{"Www-Authenticate": {`Bearer realm="http://169.254.169.254/token",service="x"`}}}, manifestPath("v1"), 403, "DENIED", false},
		{"down from https", registrytest.Options{TLS: true}, registrytest.Fault{Match: blob, Redirect: "http://127.0.0.1:1/x"}, blobPath(digestOf(small)), 403, "DENIED", false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			limits := upstream.Timeouts{Connect: time.Second, Headers: time.Second, Stall: time.Second, Patience: 2 * time.Second}
			s := newStand(t, setup{registry: row.o, timeouts: limits})
			s.registry.AddManifest(repo, "v1", "application/vnd.oci.image.manifest.v1+json", raw)
			s.registry.AddBlob(repo, small)
			s.registry.Break(row.fault)
			start := time.Now()
			r := s.get(row.path)
			took := time.Since(start)
			if r.status != row.status || (r.header.Get("Retry-After") != "") != row.retry {
				t.Fatalf("got %v, want %d", r, row.status)
			}
			var body struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.Unmarshal(r.body, &body); err != nil || len(body.Errors) != 1 {
				t.Fatalf("body %q: %v", r.body, err)
			}
			if e := body.Errors[0]; e.Code != row.code || !strings.Contains(e.Message, host) {
				t.Errorf("code %s, message %q; want %s and the upstream's name", e.Code, e.Message, row.code)
			}
			if took > limits.Patience+2*time.Second {
				t.Errorf("it took %v, with a patience of %v", took, limits.Patience)
			}
			if r.header.Get("Www-Authenticate") != "" || r.header.Get("Location") != "" {
				t.Errorf("headers of the upstream's were passed on: %v", r.header)
			}
			s.noErrors()
		})
	}
}

// TestUpstreamGone: what was pulled is served, what was not is refused fast, by name.
func TestUpstreamGone(t *testing.T) {
	s := newStand(t, setup{})
	layer := content(9, 2*mib)
	img := s.registry.AddImage(repo, "v1", layer)
	index := s.registry.AddIndex(repo, "multi", img)
	for _, path := range []string{manifestPath("v1"), manifestPath("multi"), manifestPath(img.Manifest.Digest.String()), blobPath(img.Layers[0].Digest), blobPath(img.Config.Digest)} {
		if r := s.get(path); r.status != 200 {
			t.Fatalf("%s: %v", path, r)
		}
	}
	s.settle()
	s.registry.Pause()
	for path, cached := range map[string]string{
		manifestPath("v1"): "STALE", manifestPath("multi"): "STALE",
		manifestPath(index.Digest.String()): "HIT", manifestPath(img.Manifest.Digest.String()): "HIT",
		blobPath(img.Layers[0].Digest): "HIT", blobPath(img.Config.Digest): "HIT",
		"/v2/" + repo + "/tags/list": "STALE",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			r := s.ask(method, path)
			if r.status != 200 || r.err != nil || r.header.Get("X-Cache") != cached {
				t.Errorf("%s %s: %v, want %s", method, path, r, cached)
			}
			if stale := cached == "STALE"; (r.header.Get("Warning") != "") != stale {
				t.Errorf("%s: Warning %q", path, r.header.Get("Warning"))
			}
		}
	}
	for _, path := range []string{manifestPath("v2"), manifestPath(hash256.String()), blobPath(hash256), "/v2/other/app/tags/list"} {
		start := time.Now()
		r := s.get(path)
		if r.status != 503 || !strings.Contains(string(r.body), host) || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %v, want 503 that names the upstream", path, r)
		}
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("%s took %v", path, took)
		}
	}
}
