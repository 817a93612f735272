package registrytest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// transports are the ways of talking to a registry.
var transports = []struct {
	name    string
	options registrytest.Options
}{
	{"http", registrytest.Options{}},
	{"https", registrytest.Options{TLS: true}},
	{"http2", registrytest.Options{TLS: true, HTTP2: true}},
}

const blobSize = 300_000

func TestFaults(t *testing.T) {
	blob := registrytest.Synthetic(7, blobSize)
	all := bytesOf(t, blob)
	flipped := func(at int) []byte {
		b := bytes.Clone(all)
		b[at] ^= 1
		return b
	}
	type want struct {
		noAnswer bool
		status   int
		body     []byte // nil: not looked at
		cut      bool   // the body ends in an error
		header   map[string]string
	}
	tests := []struct {
		name  string
		fault registrytest.Fault
		rng   string
		want  want
	}{
		{"none", registrytest.Fault{}, "", want{status: 200, body: all}},
		{"cut at byte", registrytest.Fault{CutAt: 100_001}, "", want{status: 200, body: all[:100_001], cut: true}},
		{"cut at share", registrytest.Fault{CutShare: 0.6}, "", want{status: 200, body: all[:180_000], cut: true}},
		{"cut at share of a range", registrytest.Fault{CutShare: 0.5}, "bytes=100-299", want{status: 206, body: all[100:200], cut: true}},
		{"cut beyond the end", registrytest.Fault{CutAt: blobSize + 1}, "", want{status: 200, body: all}},
		{"cut before the answer", registrytest.Fault{CutAt: -1}, "", want{noAnswer: true}},
		{"reset before the answer", registrytest.Fault{CutAt: -1, Reset: true}, "", want{noAnswer: true}},
		{"reset", registrytest.Fault{CutAt: 1000, Reset: true}, "", want{status: 200, cut: true}},
		{"corrupt", registrytest.Fault{CorruptAt: 99_999}, "", want{status: 200, body: flipped(99_999)}},
		{"corrupt first byte", registrytest.Fault{Corrupt: true}, "", want{status: 200, body: flipped(0)}},
		{"corrupt range", registrytest.Fault{CorruptAt: 5}, "bytes=10-19", want{status: 206, body: flipped(15)[10:20]}},
		{"longer than it is", registrytest.Fault{Length: 10}, "", want{status: 200, body: all, cut: true}},
		{"shorter than it is", registrytest.Fault{Length: -10}, "", want{status: 200, body: all[:blobSize-10]}},
		{"no length", registrytest.Fault{NoLength: true}, "", want{status: 200, body: all, header: map[string]string{"Content-Length": ""}}},
		{"no length, cut", registrytest.Fault{NoLength: true, CutAt: 7}, "", want{status: 200, body: all[:7], cut: true}},
		{"wrong Content-Range", registrytest.Fault{ContentRange: "bytes 5-9/10"}, "bytes=0-4",
			want{status: 206, body: all[:5], header: map[string]string{"Content-Range": "bytes 5-9/10"}}},
		{"range ignored", registrytest.Fault{IgnoreRange: true}, "bytes=0-4",
			want{status: 200, body: all, header: map[string]string{"Content-Range": ""}}},
		{"encoding", registrytest.Fault{Encoding: "gzip"}, "", want{status: 200, body: all, header: map[string]string{"Content-Encoding": "gzip"}}},
		{"wrong digest", registrytest.Fault{ContentDigest: "sha256:00"}, "", want{status: 200, header: map[string]string{"Docker-Content-Digest": "sha256:00"}}},
		{"wrong type", registrytest.Fault{ContentType: "text/html"}, "", want{status: 200, header: map[string]string{"Content-Type": "text/html"}}},
		{"401", registrytest.Fault{Status: 401}, "", want{status: 401}},
		{"403", registrytest.Fault{Status: 403}, "", want{status: 403, body: errorBody(403, "DENIED")}},
		{"404", registrytest.Fault{Status: 404}, "", want{status: 404, body: errorBody(404, "BLOB_UNKNOWN")}},
		{"429", registrytest.Fault{Status: 429, Header: http.Header{"Retry-After": {"3"}}}, "",
			want{status: 429, body: errorBody(429, "TOOMANYREQUESTS"), header: map[string]string{"Retry-After": "3"}}},
		{"503", registrytest.Fault{Status: 503}, "", want{status: 503, body: errorBody(503, "UNKNOWN")}},
		{"page of a captive portal", registrytest.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, "",
			want{status: 200, body: []byte("<html>"), header: map[string]string{"Content-Type": "text/html"}}},
		{"other bytes", registrytest.Fault{Body: "other"}, "", want{status: 200, body: []byte("other")}},
		{"200 with a part", registrytest.Fault{Status: 200}, "bytes=5-9", want{status: 200, body: all[5:10]}},
		{"redirect", registrytest.Fault{Redirect: "http://169.254.169.254/"}, "",
			want{status: 307, header: map[string]string{"Location": "http://169.254.169.254/"}}},
		{"garbage", registrytest.Fault{Garbage: true}, "", want{noAnswer: true}},
		{"delay", registrytest.Fault{Delay: time.Millisecond}, "", want{status: 200, body: all}},
		{"slow", registrytest.Fault{Rate: 30_000_000}, "", want{status: 200, body: all}},
		{"stall that passes", registrytest.Fault{StallAt: 1000, Stall: time.Millisecond}, "", want{status: 200, body: all}},
		{"other kind", registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindManifest}, Status: 500}, "", want{status: 200, body: all}},
		{"other range", registrytest.Fault{Match: registrytest.Match{Range: "bytes=0-1"}, Status: 500}, "bytes=1-1", want{status: 206, body: all[1:2]}},
	}
	for _, tr := range transports {
		s := registrytest.Start(t, tr.options)
		d := s.AddContent(repo, blob)
		c := client(t, s, tr.options.HTTP2)
		for _, tt := range tests {
			t.Run(tr.name+"/"+tt.name, func(t *testing.T) {
				defer s.Heal()
				s.Break(tt.fault)
				var header []string
				if tt.rng != "" {
					header = []string{"Range", tt.rng}
				}
				got := get(t, c, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String(), header...)
				if (got.err != nil) != tt.want.noAnswer {
					t.Fatalf("error %v, want one: %t", got.err, tt.want.noAnswer)
				}
				if tt.want.noAnswer {
					return
				}
				if got.status != tt.want.status || (got.bodyErr != nil) != tt.want.cut {
					t.Errorf("status %d, body error %v; want status %d, cut %t", got.status, got.bodyErr, tt.want.status, tt.want.cut)
				}
				if tt.want.body != nil && !bytes.Equal(got.body, tt.want.body) {
					t.Errorf("%d bytes, not the %d wanted", len(got.body), len(tt.want.body))
				}
				for key, value := range tt.want.header {
					if got.header.Get(key) != value {
						t.Errorf("%s: %q, want %q", key, got.header.Get(key), value)
					}
				}
			})
		}
	}
}

func errorBody(status int, code string) []byte {
	return []byte(`{"errors":[{"code":"` + code + `","message":"the test registry answers ` +
		strconv.Itoa(status) + ` because a fault says so"}]}`)
}

func TestResetIsSeenAsOne(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	d := s.AddContent(repo, registrytest.Synthetic(1, 100))
	c := client(t, s, false)
	s.Break(registrytest.Fault{CutAt: -1, Reset: true})
	if got := get(t, c, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String()); !errors.Is(got.err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", got.err)
	}
	s.Heal()
	s.Break(registrytest.Fault{CutAt: 50})
	if got := get(t, c, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String()); !errors.Is(got.bodyErr, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want an unexpected end", got.bodyErr)
	}
}

func TestFaultsCount(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	s.AddManifest(repo, "v1", "application/json", []byte(`{}`))
	c := client(t, s, false)
	manifests := registrytest.Match{Kind: registrytest.KindManifest}
	s.Break(
		registrytest.Fault{Match: manifests, Skip: 1, Times: 2, Status: 500},
		registrytest.Fault{Match: manifests, Skip: 2, Times: 2, Status: 502},
		registrytest.Fault{Match: registrytest.Match{Ref: "v2"}, Status: 503},
	)
	for i, want := range []int{200, 500, 500, 502, 502, 200, 200} {
		if got := get(t, c, s.URL()+"/v2/"+repo+"/manifests/v1"); got.status != want {
			t.Errorf("request %d: status %d, want %d", i, got.status, want)
		}
	}
	if got := get(t, c, s.URL()+"/v2/"+repo+"/manifests/v2"); got.status != 503 {
		t.Errorf("status %d, want 503", got.status)
	}
}

func TestFaultsSpareChallenges(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Auth: registrytest.AuthBasic, User: "u", Password: "p"})
	s.AddManifest(repo, "v1", "application/json", []byte(`{}`))
	c := client(t, s, false)
	s.Break(registrytest.Fault{Status: 500, Times: 1})
	url := s.URL() + "/v2/" + repo + "/manifests/v1"
	if got := get(t, c, url); got.status != 401 {
		t.Errorf("without credentials: %d, want 401", got.status)
	}
	if got := get(t, c, url, "Authorization", "Basic dTpw"); got.status != 500 {
		t.Errorf("with credentials: %d, want 500", got.status)
	}
	s.Break(registrytest.Fault{Status: 401, Times: 1})
	got := get(t, c, url, "Authorization", "Basic dTpw")
	if got.status != 401 || got.header.Get("WWW-Authenticate") == "" {
		t.Errorf("a 401 by a fault: %d, challenge %q", got.status, got.header.Get("WWW-Authenticate"))
	}
}

func TestStall(t *testing.T) {
	tests := []struct {
		name  string
		fault registrytest.Fault
		sent  int64
	}{
		{"headers", registrytest.Fault{StallHeaders: true}, 0},
		{"after headers", registrytest.Fault{StallAt: -1}, 0},
		{"in the body", registrytest.Fault{StallAt: 70_000}, 70_000},
	}
	for _, tr := range transports {
		for _, tt := range tests {
			t.Run(tr.name+"/"+tt.name, func(t *testing.T) {
				ctx := testContext(t)
				s := registrytest.Start(t, tr.options)
				blob := registrytest.Synthetic(3, blobSize)
				d := s.AddContent(repo, blob)
				c := client(t, s, tr.options.HTTP2)
				s.Break(tt.fault)
				url := s.URL() + "/v2/" + repo + "/blobs/" + d.Digest.String()

				done := make(chan outcome, 1)
				go func() { done <- ask(ctx, t, c, http.MethodGet, url) }()
				if err := s.WaitStalled(ctx, 1); err != nil {
					t.Fatal(err)
				}
				if n := s.BodyBytes(registrytest.Match{}); n != tt.sent {
					t.Errorf("%d bytes sent before the stall, want %d", n, tt.sent)
				}
				s.Release()
				if got := <-done; got.err != nil || !bytes.Equal(got.body, bytesOf(t, blob)) {
					t.Errorf("released: %v, %d bytes, %v", got.err, len(got.body), got.bodyErr)
				}

				leaving, leave := context.WithCancel(ctx)
				go func() { done <- ask(leaving, t, c, http.MethodGet, url) }()
				if err := s.WaitStalled(ctx, 1); err != nil {
					t.Fatal(err)
				}
				leave()
				if got := <-done; got.err == nil && got.bodyErr == nil {
					t.Error("a client that left got all of it")
				}
				if err := s.WaitIdle(ctx); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestGarbageIsNotHTTP(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	s.Break(registrytest.Fault{Garbage: true})
	got := get(t, client(t, s, false), s.URL()+"/v2/")
	if got.err == nil || !strings.Contains(got.err.Error(), "malformed HTTP") {
		t.Errorf("%v, want malformed HTTP", got.err)
	}
}
