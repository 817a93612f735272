package upstream

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/fault"
)

func TestStatusMapping(t *testing.T) {
	oci := func(code, msg string) string {
		quoted, _ := json.Marshal(msg)
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":%s}]}`, code, quoted)
	}
	for name, tc := range map[string]struct {
		status int
		header string
		body   string
		kind   fault.Kind
		code   string
		retry  time.Duration
		says   string
	}{
		"not found":           {status: 404, body: oci("MANIFEST_UNKNOWN", "no such thing"), kind: fault.NotFound, code: "MANIFEST_UNKNOWN", says: "no such thing"},
		"not found, HTML":     {status: 404, body: "<html>", kind: fault.NotFound},
		"unknown by code":     {status: 400, body: oci("NAME_UNKNOWN", ""), kind: fault.NotFound, code: "NAME_UNKNOWN"},
		"unauthorized":        {status: 401, kind: fault.Denied, says: "set credentials for this upstream"},
		"forbidden":           {status: 403, body: oci("DENIED", "see https://x.example/a?sig=1 \x07\n now"), kind: fault.Denied, code: "DENIED", says: "see https://x.example/a"},
		"throttled, seconds":  {status: 429, header: "7", body: oci("TOOMANYREQUESTS", "slow"), kind: fault.Throttled, code: "TOOMANYREQUESTS", retry: 7 * time.Second},
		"throttled":           {status: 429, kind: fault.Throttled},
		"throttled, garbage":  {status: 429, header: "soon", kind: fault.Throttled},
		"throttled, negative": {status: 429, header: "-4", kind: fault.Throttled},
		"throttled, forever":  {status: 429, header: "99999999999", kind: fault.Throttled, retry: 24 * time.Hour},
		"broken":              {status: 500, kind: fault.Unavailable},
		"down":                {status: 503, header: "30", kind: fault.Unavailable, retry: 30 * time.Second},
		"legal":               {status: 451, kind: fault.Denied},
		"teapot":              {status: 418, kind: fault.Denied},
		"no such method":      {status: 405, kind: fault.Unsupported},
		"not modified":        {status: 304, kind: fault.Damaged},
		"code that isn't one": {status: 404, body: oci("<script>", "x"), kind: fault.NotFound},
		"long message":        {status: 404, body: oci("X", strings.Repeat("é", 999)), kind: fault.NotFound, code: "X"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tc.header != "" {
					w.Header().Set("Retry-After", tc.header)
				}
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.body)
			})
			_, _, err := client(t, nil, s.URL).GetManifest(t.Context(), "library/alpine", "3.20")
			f := wantFault(t, err, tc.kind)
			if f.Status != tc.status || f.Code != tc.code || f.RetryAfter != tc.retry || !strings.Contains(f.Message, tc.says) {
				t.Errorf("got %#v", f)
			}
			if f.Op != "GET library/alpine/manifests/3.20" {
				t.Errorf("op %q", f.Op)
			}
			if len([]rune(f.Message)) > maxMessage+120 || strings.ContainsAny(f.Message, "\x07\n") {
				t.Errorf("message %q", f.Message)
			}
		})
	}
}

func TestRetryAfterAsDate(t *testing.T) {
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	h := http.Header{"Retry-After": {now.Add(90 * time.Second).Format(http.TimeFormat)}}
	if got := retryAfter(h, now); got != 90*time.Second {
		t.Error(got)
	}
	if got := retryAfter(h, now.Add(time.Hour)); got != 0 {
		t.Error(got)
	}
}

func TestConnectionFailures(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	hung := make(chan struct{})
	silent := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	defer close(hung)
	untrusted := httptest.NewUnstartedServer(nil)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	for name, url := range map[string]string{"refused": closed.URL, "silent": silent.URL, "untrusted": untrusted.URL} {
		t.Run(name, func(t *testing.T) {
			started := time.Now()
			_, err := client(t, nil, url).HeadManifest(t.Context(), "x", "latest")
			wantFault(t, err, fault.Unavailable)
			if took := time.Since(started); took > 2*quick.Patience {
				t.Errorf("took %v", took)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := client(t, nil, silent.URL).HeadManifest(ctx, "x", "latest")
	if _, isFault := fault.As(err); !errors.Is(err, context.DeadlineExceeded) || isFault {
		t.Errorf("the caller's own deadline: %v", err)
	}
}

func TestGetManifest(t *testing.T) {
	index := `{"schemaVersion":2,"manifests":[]}`
	sum := sha512.Sum512([]byte(index))
	by512 := "sha512:" + hex.EncodeToString(sum[:])
	by256 := digest([]byte(index)).String()
	other := digest(nil).String()
	for name, tc := range map[string]struct {
		ref, ctype, stated, encoding string
		body                         string
		kind                         fault.Kind
		bad                          bool
		wantType, wantDigest         string
	}{
		"by tag":                    {ref: "latest", ctype: "application/vnd.oci.image.index.v1+json; charset=utf-8", wantType: "application/vnd.oci.image.index.v1+json", wantDigest: by256},
		"by tag, digest stated":     {ref: "latest", stated: by512, ctype: "a/b", wantType: "a/b", wantDigest: by512},
		"by tag, wrong digest":      {ref: "latest", stated: other, bad: true, kind: fault.Damaged},
		"by tag, odd digest stated": {ref: "latest", stated: "md5:aa", ctype: "a/b", wantType: "a/b", wantDigest: by256},
		"by digest":                 {ref: by256, stated: other, ctype: "a/b", wantType: "a/b", wantDigest: by256},
		"by sha512":                 {ref: by512, ctype: "a/b", wantType: "a/b", wantDigest: by512},
		"by another digest":         {ref: other, bad: true, kind: fault.Damaged},
		"type from the content":     {ref: "latest", ctype: "application/json", wantType: "application/vnd.oci.image.index.v1+json", wantDigest: by256},
		"compressed":                {ref: "latest", encoding: "gzip", bad: true, kind: fault.Damaged},
		"too long":                  {ref: "latest", body: strings.Repeat("x", maxManifest+1), bad: true, kind: fault.Damaged},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/a/b/manifests/"+tc.ref || !strings.Contains(r.Header.Get("Accept"), "vnd.docker.distribution.manifest.list.v2+json") {
					t.Errorf("asked for %s, accepting %s", r.URL.Path, r.Header.Get("Accept"))
				}
				for k, v := range map[string]string{"Content-Type": tc.ctype, "Docker-Content-Digest": tc.stated, "Content-Encoding": tc.encoding} {
					if v != "" {
						w.Header().Set(k, v)
					}
				}
				body := tc.body
				if body == "" {
					body = index
				}
				io.WriteString(w, body)
			})
			desc, raw, err := client(t, nil, s.URL).GetManifest(t.Context(), "a/b", tc.ref)
			if tc.bad {
				wantFault(t, err, tc.kind)
				return
			}
			if err != nil || string(raw) != index || string(desc.MediaType) != tc.wantType || desc.Digest.String() != tc.wantDigest || desc.Size != int64(len(index)) {
				t.Errorf("got %+v, %q, %v", desc, raw, err)
			}
		})
	}
}

func TestHeadManifest(t *testing.T) {
	d := digest([]byte("x"))
	stated := d.String()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "a/b; x=y")
		w.Header().Set("Content-Length", "17")
		w.Header().Set("Docker-Content-Digest", stated)
	})
	c := client(t, nil, s.URL)
	if desc, err := c.HeadManifest(t.Context(), "r", "tag"); err != nil || desc.Digest != d || desc.Size != 17 || desc.MediaType != "a/b" {
		t.Errorf("%+v, %v", desc, err)
	}
	stated = "rubbish"
	if desc, err := c.HeadManifest(t.Context(), "r", "tag"); err != nil || desc.Digest.Hex != "" {
		t.Errorf("%+v, %v", desc, err)
	}
}

func TestPathsAndHeaders(t *testing.T) {
	var got counter
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got.add(r.RequestURI)
		if r.UserAgent() != "ua/1" || r.Header.Get("Via") != "1.1 me" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("headers %v", r.Header)
		}
	})
	for base, want := range map[string]string{
		"":                  "/v2/a/b/manifests/t%25%3F",
		"/":                 "/v2/a/b/manifests/t%25%3F",
		"/harbor/dockerhub": "/v2/harbor/dockerhub/a/b/manifests/t%25%3F",
		"/v2/harbor/":       "/v2/harbor/a/b/manifests/t%25%3F",
	} {
		c := client(t, func(o *Options) { o.UserAgent, o.Via = "ua/1", "1.1 me" }, s.URL+base)
		if _, err := c.HeadManifest(t.Context(), "a/b", "t%?"); err != nil || got.get(want) == 0 {
			t.Errorf("%q: %v, asked for %v", base, err, got.m)
		}
		for _, repo := range []string{"../x", "a//b", "", "a/./b", `a\..\b`} {
			_, err := c.HeadManifest(t.Context(), repo, "t")
			wantFault(t, err, fault.NotFound)
		}
	}
	for _, bad := range []string{"", "host", "ftp://host", "https://u:p@host", "https://host?x=1", "https://"} {
		if _, err := New(Options{Name: "x", Endpoints: []Endpoint{{URL: bad}}}); err == nil {
			t.Errorf("endpoint %q was accepted", bad)
		}
	}
}
