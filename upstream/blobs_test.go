package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/entrepot/entrepot/internal/fault"
)

var content = bytes.Repeat([]byte("0123456789abcdef"), 4096)

// storage is a registry that redirects to a store on another port with an address that can expire.
type storage struct {
	counter
	registry, store *httptest.Server
	mu              sync.Mutex
	valid           int // guarded by mu: the signature that the store takes
}

func newStorage(t *testing.T) *storage {
	s := &storage{valid: 1}
	s.store = serve(t, func(w http.ResponseWriter, r *http.Request) {
		s.add("store")
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
			t.Error("credentials went along a redirect")
		}
		s.mu.Lock()
		good := r.URL.Query().Get("sig") == fmt.Sprint(s.valid)
		s.mu.Unlock()
		if !good {
			s.add("expired")
			http.Error(w, "<Error>sig=hunter2</Error>", http.StatusForbidden)
			return
		}
		serveBlob(w, r, content)
	})
	s.registry = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(401)
			return
		}
		s.add("registry")
		s.mu.Lock()
		sig := s.valid
		s.mu.Unlock()
		time.Sleep(20 * time.Millisecond) // let others come while it is found out
		http.Redirect(w, r, fmt.Sprintf("%s/blob?sig=%d", s.store.URL, sig), http.StatusTemporaryRedirect)
	})
	return s
}

func signedIn(o *Options) {
	o.Credentials = who(authn.AuthConfig{Username: "u", Password: "hunter2"})
	o.Timeouts.Patience = 10 * time.Second
}

func TestRangesShareOneResolvedAddress(t *testing.T) {
	s := newStorage(t)
	c := client(t, signedIn, s.registry.URL)
	fetch := func() {
		var wg sync.WaitGroup
		for i := range int64(8) {
			wg.Go(func() {
				resp, err := c.GetBlob(t.Context(), "a", digest(content), i*100, 100)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 206 || !bytes.Equal(b, content[i*100:i*100+100]) {
					t.Errorf("range %d: %d, %d bytes", i, resp.StatusCode, len(b))
				}
			})
		}
		wg.Wait()
	}
	fetch()
	fetch()
	if s.get("registry") != 1 {
		t.Errorf("the registry was asked %d times for 16 ranges", s.get("registry"))
	}
	s.mu.Lock()
	s.valid = 2
	s.mu.Unlock()
	fetch()
	if s.get("registry") != 2 {
		t.Errorf("the registry was asked %d times after the address expired, want once more", s.get("registry")-1)
	}
}

func TestAddressThatStaysRefused(t *testing.T) {
	s := newStorage(t)
	c := client(t, signedIn, s.registry.URL)
	resp, err := c.GetBlob(t.Context(), "a", digest(content), 0, 100)
	read(t, resp, err)
	s.store.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.add("store")
		w.WriteHeader(403)
		io.WriteString(w, `{"errors":[{"code":"X","message":"hunter2 sig=1"}]}`)
	})
	asked := s.get("registry")
	_, err = c.GetBlob(t.Context(), "a", digest(content), 0, 100)
	wantFault(t, err, fault.Denied)
	if s.get("registry") != asked+1 {
		t.Errorf("the registry was asked %d times more, want 1", s.get("registry")-asked)
	}
}

func TestRangeBeyondTheEnd(t *testing.T) {
	s := newStorage(t)
	c := client(t, signedIn, s.registry.URL)
	resp, err := c.GetBlob(t.Context(), "a", digest(content), 0, 100)
	read(t, resp, err)
	_, err = c.GetBlob(t.Context(), "a", digest(content), int64(len(content)), 10)
	if f := wantFault(t, err, fault.Unsupported); f.Status != 416 {
		t.Errorf("status %d", f.Status)
	}
	if s.get("registry") != 1 {
		t.Error("416 made the address to be resolved anew")
	}
}

func TestGetBlobAnswers(t *testing.T) {
	answer := func(status int, h ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(h); i += 2 {
				w.Header().Set(h[i], h[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, "0123456789")
		}
	}
	for name, tc := range map[string]struct {
		h      http.HandlerFunc
		off, n int64
		bad    bool
	}{
		"whole":               {answer(200), 0, -1, false},
		"no ranges":           {answer(200), 5, 5, false},
		"part":                {answer(206, "Content-Range", "bytes 5-14/100"), 5, 10, false},
		"part to the end":     {answer(206, "Content-Range", "bytes 5-14/15"), 5, -1, false},
		"part, total unknown": {answer(206, "Content-Range", "bytes 5-14/*"), 5, 10, false},
		"short part":          {answer(206, "Content-Range", "bytes 5-14/15"), 5, 99, false},
		"wrong start":         {answer(206, "Content-Range", "bytes 4-13/100"), 5, 10, true},
		"too much":            {answer(206, "Content-Range", "bytes 5-14/100"), 5, 9, true},
		"wrong length":        {answer(206, "Content-Range", "bytes 5-15/100"), 5, 20, true},
		"beyond its own end":  {answer(206, "Content-Range", "bytes 5-14/14"), 5, 10, true},
		"no Content-Range":    {answer(206), 5, 10, true},
		"part not asked for":  {answer(206, "Content-Range", "bytes 0-9/10"), 0, -1, true},
		"several parts":       {answer(206, "Content-Type", "multipart/byteranges; boundary=x"), 5, 10, true},
		"no content":          {answer(202), 0, -1, true},
		"compressed":          {answer(200, "Content-Encoding", "gzip"), 0, -1, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.h)
			resp, err := client(t, nil, s.URL).GetBlob(t.Context(), "a", digest(nil), tc.off, tc.n)
			if tc.bad {
				wantFault(t, err, fault.Damaged)
				return
			}
			if got := read(t, resp, err); got != "0123456789" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestRangeHeader(t *testing.T) {
	for want, r := range map[string][2]int64{"": {0, -1}, "bytes=0-9": {0, 10}, "bytes=7-": {7, -1}, "bytes=7-7": {7, 1}} {
		if got := rangeOf(r[0], r[1]); got != want {
			t.Errorf("%v: %q, want %q", r, got, want)
		}
	}
}

func TestBodyFailures(t *testing.T) {
	var events counter
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("0123456789"))
		w.(http.Flusher).Flush()
		if strings.HasPrefix(r.URL.Path, "/v2/cut/") {
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	})
	c := client(t, func(o *Options) {
		o.Observe = func(e Event) { events.add(fmt.Sprintf("%s %s %d", e.Kind, e.Result, e.Bytes)) }
	}, s.URL)
	for _, repo := range []string{"cut", "stall"} {
		resp, err := c.GetBlob(t.Context(), repo, digest(nil), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		b, err := io.ReadAll(resp.Body)
		f := wantFault(t, err, fault.Unavailable)
		if len(b) != 10 || repo == "stall" && !strings.Contains(f.Message, "stalled") || time.Since(started) > 5*time.Second {
			t.Errorf("%s: %d bytes, %v", repo, len(b), err)
		}
		if _, again := resp.Body.Read(make([]byte, 1)); !errors.Is(again, err) {
			t.Errorf("%s: the failure is not for good: %v", repo, again)
		}
		resp.Body.Close()
	}
	if events.get("blob unavailable 10") != 2 {
		t.Errorf("events %v", events.m)
	}
}

// A reader that takes its time isn't a stalled upstream.
func TestSlowReaderIsNoStall(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { serveBlob(w, r, content) })
	c := client(t, func(o *Options) {
		o.Timeouts.Stall = 30 * time.Millisecond
		o.Timeouts.Patience = 60 * time.Millisecond
	}, s.URL)
	resp, err := c.GetBlob(t.Context(), "a", digest(content), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond)
	if got := read(t, resp, nil); got != string(content) {
		t.Errorf("%d bytes", len(got))
	}
}

func TestHeadAndCheckBlob(t *testing.T) {
	mode := ""
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/missing/"):
			w.WriteHeader(404)
		case strings.HasPrefix(r.URL.Path, "/v2/empty/"):
			serveBlob(w, r, nil)
		case mode == "redirect" && r.URL.Path != "/store":
			http.Redirect(w, r, "/store", 307)
		case mode == "get only" && r.Method == http.MethodHead:
			w.WriteHeader(403)
		default:
			serveBlob(w, r, content)
		}
	})
	c := client(t, nil, s.URL)
	for _, mode = range []string{"plain", "redirect", "get only"} {
		if size, err := c.HeadBlob(t.Context(), "a", digest(content)); err != nil || size != int64(len(content)) {
			t.Errorf("%s: size %d, %v", mode, size, err)
		}
		if err := c.CheckBlob(t.Context(), "a", digest(content)); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if err := c.CheckBlob(t.Context(), "empty", digest(nil)); err != nil {
		t.Errorf("an empty blob: %v", err)
	}
	_, err := c.HeadBlob(t.Context(), "missing", digest(content))
	wantFault(t, err, fault.NotFound)
	wantFault(t, c.CheckBlob(t.Context(), "missing", digest(content)), fault.NotFound)
}

func TestCheckBlobDoesNotFollow(t *testing.T) {
	target := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Error("followed") })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target.URL, 307) })
	if err := client(t, nil, s.URL).CheckBlob(t.Context(), "a", digest(nil)); err != nil {
		t.Error(err)
	}
}

func TestPlacesAreBounded(t *testing.T) {
	p := newPlaces()
	for i := range maxPlaces + 50 {
		_, lead, err := p.find(t.Context(), placeKey{repo: fmt.Sprint(i)})
		if lead == nil || err != nil {
			t.Fatal(lead, err)
		}
		lead.finish(&place{until: time.Now().Add(time.Hour)}, nil)
	}
	if len(p.m) > maxPlaces {
		t.Errorf("%d places are kept", len(p.m))
	}
}
