package proxy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/proxy"
)

var (
	hex64   = strings.Repeat("0123456789abcdef", 4)
	hash256 = v1.Hash{Algorithm: "sha256", Hex: hex64}
	hash512 = v1.Hash{Algorithm: "sha512", Hex: hex64 + hex64}
)

func testNames() proxy.Names {
	return proxy.Names{
		Lookup: func(name string) (string, bool) {
			canonical := map[string]string{"docker.io": "docker.io", "index.docker.io": "docker.io", "quay.io": "quay.io", "127.0.0.1:15010": "127.0.0.1:15010", "localhost": "localhost"}
			host, ok := canonical[strings.ToLower(name)]
			return host, ok
		},
		Own:     func(host string) bool { return host == "127.0.0.1:5000" },
		Default: "docker.io",
	}
}

func TestParse(t *testing.T) {
	rows := []struct {
		path, ns string
		want     proxy.Route
	}{
		{"/v2", "", proxy.Route{Kind: proxy.Ping}},
		{"/v2/", "", proxy.Route{Kind: proxy.Ping}},
		{"/v2/", "evil.example", proxy.Route{Kind: proxy.Ping}},
		{"/v2/alpine/manifests/3.20", "", proxy.Route{Kind: proxy.Manifest, Upstream: "docker.io", Name: "library/alpine", Tag: "3.20"}},
		{"/v2/library/alpine/manifests/3.20", "docker.io", proxy.Route{Kind: proxy.Manifest, Upstream: "docker.io", Name: "library/alpine", Tag: "3.20", Namespace: "docker.io"}},
		{"/v2/alpine/manifests/3.20", "Index.Docker.IO", proxy.Route{Kind: proxy.Manifest, Upstream: "docker.io", Name: "library/alpine", Tag: "3.20", Namespace: "Index.Docker.IO"}},
		{"/v2/a/b/manifests/sha256:" + hex64, "quay.io", proxy.Route{Kind: proxy.Manifest, Upstream: "quay.io", Name: "a/b", Digest: hash256, Namespace: "quay.io"}},
		{"/v2/app/blobs/sha512:" + hex64 + hex64, "127.0.0.1:15010", proxy.Route{Kind: proxy.Blob, Upstream: "127.0.0.1:15010", Name: "app", Digest: hash512, Namespace: "127.0.0.1:15010"}},
		{"/v2/quay.io/prometheus/node-exporter/manifests/v1", "", proxy.Route{Kind: proxy.Manifest, Upstream: "quay.io", Name: "prometheus/node-exporter", Tag: "v1"}},
		{"/v2/index.docker.io/alpine/tags/list", "", proxy.Route{Kind: proxy.Tags, Upstream: "docker.io", Name: "library/alpine"}},
		{"/v2/localhost/app/tags/list", "", proxy.Route{Kind: proxy.Tags, Upstream: "localhost", Name: "app"}},
		{"/v2/quay.io/a/referrers/sha256:" + hex64, "", proxy.Route{Kind: proxy.Referrers, Upstream: "quay.io", Name: "a", Digest: hash256}},
		{"/v2/quay.io/a/manifests/v1", "127.0.0.1:5000", proxy.Route{Kind: proxy.Manifest, Upstream: "quay.io", Name: "a", Tag: "v1"}},
		{"/v2/a/manifests/manifests/manifests", "quay.io", proxy.Route{Kind: proxy.Manifest, Upstream: "quay.io", Name: "a/manifests", Tag: "manifests", Namespace: "quay.io"}},
		{"/v2/quay.io/manifests/v1", "", proxy.Route{Kind: proxy.Manifest, Upstream: "docker.io", Name: "library/quay.io", Tag: "v1"}},
	}
	for _, row := range rows {
		got, err := proxy.Parse(proxy.Request{Method: "GET", Path: row.path, Namespace: row.ns}, testNames())
		if err != nil {
			t.Errorf("%s?ns=%s: %v", row.path, row.ns, err)
			continue
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s?ns=%s (-want +got):\n%s", row.path, row.ns, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	rows := []struct {
		name   string
		rq     proxy.Request
		status int
		code   string
	}{
		{"not the API", proxy.Request{Path: "/"}, 404, "UNSUPPORTED"},
		{"another version", proxy.Request{Path: "/v2x/a/manifests/b"}, 404, "UNSUPPORTED"},
		{"no part of it", proxy.Request{Path: "/v2/_catalog"}, 404, "UNSUPPORTED"},
		{"nor this", proxy.Request{Path: "/v2/a/b/c"}, 404, "UNSUPPORTED"},
		{"push", proxy.Request{Method: "PUT", Path: "/v2/a/manifests/b"}, 405, "UNSUPPORTED"},
		{"upload", proxy.Request{Method: "POST", Path: "/v2/a/blobs/uploads/"}, 405, "UNSUPPORTED"},
		{"delete", proxy.Request{Method: "DELETE", Path: "/v2/a/blobs/sha256:" + hex64}, 405, "UNSUPPORTED"},
		{"look at an upload", proxy.Request{Path: "/v2/a/blobs/uploads"}, 404, "UNSUPPORTED"},
		{"unknown ns", proxy.Request{Path: "/v2/a/manifests/b", Namespace: "evil.example"}, 403, "DENIED"},
		{"look-alike ns", proxy.Request{Path: "/v2/a/manifests/b", Namespace: "docker.io.evil.example"}, 403, "DENIED"},
		{"metadata ns", proxy.Request{Path: "/v2/a/manifests/b", Namespace: "169.254.169.254"}, 403, "DENIED"},
		{"unknown host in the path", proxy.Request{Path: "/v2/evil.example/a/manifests/b"}, 403, "DENIED"},
		{"a port is part of the name", proxy.Request{Path: "/v2/quay.io:8443/a/manifests/b"}, 403, "DENIED"},
		{"upper case", proxy.Request{Path: "/v2/Alpine/manifests/b"}, 400, "NAME_INVALID"},
		{"dots", proxy.Request{Path: "/v2/a/../b/manifests/c", Namespace: "quay.io"}, 400, "NAME_INVALID"},
		{"an empty part", proxy.Request{Path: "/v2/a//manifests/c", Namespace: "quay.io"}, 400, "NAME_INVALID"},
		{"a long name", proxy.Request{Path: "/v2/" + strings.Repeat("a", 256) + "/manifests/c"}, 400, "NAME_INVALID"},
		{"an encoded slash", proxy.Request{Path: "/v2/a/b/manifests/c", RawPath: "/v2/a%2Fb/manifests/c"}, 400, "NAME_INVALID"},
		{"a long tag", proxy.Request{Path: "/v2/a/manifests/" + strings.Repeat("a", 129)}, 400, "NAME_INVALID"},
		{"a tag with a dash first", proxy.Request{Path: "/v2/a/manifests/-a"}, 400, "NAME_INVALID"},
		{"a short digest", proxy.Request{Path: "/v2/a/manifests/sha256:abc"}, 400, "DIGEST_INVALID"},
		{"a digest in upper case", proxy.Request{Path: "/v2/a/blobs/sha256:" + strings.ToUpper(hex64)}, 400, "DIGEST_INVALID"},
		{"an unknown algorithm", proxy.Request{Path: "/v2/a/blobs/md5:" + hex64}, 400, "DIGEST_INVALID"},
		{"no digest", proxy.Request{Path: "/v2/a/blobs/latest"}, 400, "DIGEST_INVALID"},
		{"a bad subject", proxy.Request{Path: "/v2/a/referrers/latest"}, 400, "DIGEST_INVALID"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if row.rq.Method == "" {
				row.rq.Method = "GET"
			}
			route, err := proxy.Parse(row.rq, testNames())
			var refusal interface{ Answer() (int, string) }
			if !errors.As(err, &refusal) {
				t.Fatalf("Parse = %+v, %v; want %d", route, err, row.status)
			}
			if status, code := refusal.Answer(); status != row.status || code != row.code {
				t.Errorf("answer %d %s, want %d %s", status, code, row.status, row.code)
			}
		})
	}
	names := testNames()
	names.Default = ""
	if _, err := proxy.Parse(proxy.Request{Method: "GET", Path: "/v2/a/b/tags/list"}, names); err == nil {
		t.Error("a request without an upstream was routed, though there is no default")
	}
}

// FuzzParse: what is routed goes to an upstream that is allowed, under a name
// that stays below it, whatever was sent.
func FuzzParse(f *testing.F) {
	f.Add("GET", "/v2/alpine/manifests/3.20", "", "")
	f.Add("GET", "/v2/quay.io/a/blobs/sha256:"+hex64, "", "docker.io")
	f.Add("HEAD", "/v2/a/../../manifests/x", "/v2/a/%2e%2e/..%2fmanifests/x", "127.0.0.1:5000")
	f.Add("GET", "/v2/\x00/manifests/\xff", "", "\n")
	f.Fuzz(func(t *testing.T, method, path, raw, ns string) {
		names := testNames()
		r, err := proxy.Parse(proxy.Request{Method: method, Path: path, RawPath: raw, Namespace: ns}, names)
		if err != nil {
			var refusal interface{ Answer() (int, string) }
			if !errors.As(err, &refusal) {
				t.Fatalf("an error without an answer: %v", err)
			}
			if status, code := refusal.Answer(); status < 400 || status > 499 || code == "" {
				t.Fatalf("answer %d %q", status, code)
			}
			return
		}
		if r.Kind == proxy.Ping {
			return
		}
		if host, ok := names.Lookup(r.Upstream); !ok || host != r.Upstream {
			t.Fatalf("%q is no upstream", r.Upstream)
		}
		for part := range strings.SplitSeq(r.Name, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\\?#%\x00 ") {
				t.Fatalf("name %q", r.Name)
			}
		}
		if strings.ContainsAny(r.Tag, "/?#%:\\ ") {
			t.Fatalf("tag %q", r.Tag)
		}
	})
}
