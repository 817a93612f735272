package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/fault"
)

// A row is what the upstream answers, one after the other.
func TestRetries(t *testing.T) {
	type answer struct {
		status int
		after  string
	}
	for name, tc := range map[string]struct {
		answers []answer
		asked   int
		ok      bool
		atLeast time.Duration
	}{
		"recovers":                       {[]answer{{503, ""}, {502, ""}, {200, ""}}, 3, true, 0},
		"throttled with Retry-After":     {[]answer{{429, "1"}, {200, ""}}, 2, true, time.Second},
		"throttled without":              {[]answer{{429, ""}, {200, ""}}, 1, false, 0},
		"Retry-After beyond patience":    {[]answer{{429, "60"}, {200, ""}}, 1, false, 0},
		"not found is final":             {[]answer{{404, ""}, {200, ""}}, 1, false, 0},
		"refusal is final":               {[]answer{{403, ""}, {200, ""}}, 1, false, 0},
		"broken for good":                {[]answer{{500, ""}, {500, ""}, {500, ""}, {500, ""}, {200, ""}}, 4, false, 0},
		"5xx with Retry-After is waited": {[]answer{{503, "1"}, {200, ""}}, 2, true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n counter
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				a := tc.answers[n.add("asked")-1]
				w.Header().Set("Retry-After", a.after)
				w.WriteHeader(a.status)
			})
			started := time.Now()
			_, err := client(t, nil, s.URL).HeadManifest(t.Context(), "x", "latest")
			if (err == nil) != tc.ok || n.get("asked") != tc.asked {
				t.Errorf("asked %d times, want %d; %v", n.get("asked"), tc.asked, err)
			}
			if took := time.Since(started); took < tc.atLeast {
				t.Errorf("asked again after %v", took)
			}
		})
	}
}

func TestNextEndpoint(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	var n counter
	sick := serve(t, func(w http.ResponseWriter, r *http.Request) { n.add("sick"); w.WriteHeader(500) })
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { n.add("good"); w.Write([]byte("x")) })
	c := client(t, nil, dead.URL, sick.URL, good.URL)
	resp, err := c.GetBlob(t.Context(), "x", digest([]byte("x")), 0, -1)
	if got := read(t, resp, err); got != "x" {
		t.Fatal(got)
	}
	if _, err := c.HeadManifest(t.Context(), "x", "latest"); err != nil {
		t.Fatal(err)
	}
	if n.get("sick") != 1 || n.get("good") != 2 {
		t.Errorf("an endpoint that failed a moment ago was asked before a good one: %v", n.m)
	}

	missing := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) })
	_, err = client(t, nil, missing.URL, good.URL).HeadManifest(t.Context(), "x", "latest")
	wantFault(t, err, fault.NotFound)
}

func TestRequestLimits(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	c := client(t, func(o *Options) { o.Requests, o.Timeouts.Patience = 4, 300*time.Millisecond }, s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var open []*http.Response
	for range 3 {
		resp, err := c.GetBlob(ctx, "x", digest(nil), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	_, err := c.GetBlob(ctx, "x", digest(nil), 0, -1)
	wantFault(t, err, fault.Busy)
	if _, err := c.HeadManifest(ctx, "x", "latest"); err != nil {
		t.Errorf("manifests starve behind blobs: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		resp, err := c.GetBlob(ctx, "x", digest(nil), 0, -1)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
	})
	open[0].Body.Close()
	open[0].Body.Close() // gives back one place, not two
	wg.Wait()
	cancel()
	if _, err := open[1].Body.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the caller's cancel: %v", err)
	}
	for _, r := range open {
		r.Body.Close()
	}
}

func TestCloseEndsBodies(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := client(t, nil, s.URL)
	resp, err := c.GetBlob(t.Context(), "x", digest(nil), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	c.Close()
	_, err = resp.Body.Read(make([]byte, 1))
	wantFault(t, err, fault.Unavailable)
	_, err = c.HeadManifest(t.Context(), "x", "y")
	wantFault(t, err, fault.Unavailable)
}
