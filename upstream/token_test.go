package upstream

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/entrepot/entrepot/internal/fault"
)

func TestOneTokenForManyCallers(t *testing.T) {
	tr := newTokenRegistry(t)
	c := client(t, func(o *Options) { o.Timeouts = Timeouts{}; o.Requests = 400 }, tr.URL)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, _, err := c.GetManifest(t.Context(), "a/b", "latest"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tr.get("token") != 1 || tr.get("scope repository:a/b:pull") != 1 {
		t.Errorf("%v", tr.m)
	}
	before := tr.get("401")
	if _, _, err := c.GetManifest(t.Context(), "c", "latest"); err != nil {
		t.Fatal(err)
	}
	if tr.get("401") != before {
		t.Error("the second repository had to be challenged")
	}
	if tr.get("scope repository:c:pull") != 1 {
		t.Errorf("%v", tr.m)
	}
}

func TestScopes(t *testing.T) {
	tr := newTokenRegistry(t)
	tr.scope = "aws"
	c := client(t, nil, tr.URL)
	for _, repo := range []string{"a", "b", "a"} {
		if _, _, err := c.GetManifest(t.Context(), repo, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if tr.get("token") != 1 || tr.get("401") != 1 || tr.get("scope aws") != 1 {
		t.Errorf("a scope that names no repository serves all: %v", tr.m)
	}

	odd := newTokenRegistry(t)
	odd.scope = "repository:mirror/a:pull repository:b:pull"
	c = client(t, nil, odd.URL)
	for range 2 {
		if _, _, err := c.GetManifest(t.Context(), "a", "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if odd.get("401") != 1 || odd.get("scope repository:mirror/a:pull+repository:b:pull") != 1 {
		t.Errorf("an unusual scope is remembered: %v", odd.m)
	}
}

func TestRevokedTokenIsReplacedOnce(t *testing.T) {
	// Virtual time would hide the race that this is about; the tokens' age is moved instead.
	tr := newTokenRegistry(t)
	tr.expires = `,"expires_in":3600`
	c := client(t, func(o *Options) { o.Timeouts = Timeouts{}; o.Requests = 400 }, tr.URL)
	if _, _, err := c.GetManifest(t.Context(), "a", "latest"); err != nil {
		t.Fatal(err)
	}
	c.tokens.mu.Lock()
	for _, e := range c.tokens.m {
		old := *e.cur
		old.issued = old.issued.Add(-time.Minute)
		e.cur = &old
	}
	c.tokens.mu.Unlock()
	tr.refuse = func(tok string) bool { return tok == "tok1" }
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, _, err := c.GetManifest(t.Context(), "a", "latest"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tr.get("token") != 2 {
		t.Errorf("%d tokens, want the first and its successor", tr.get("token"))
	}
}

func TestDenied(t *testing.T) {
	tr := newTokenRegistry(t)
	tr.refuse = func(string) bool { return true }
	c := client(t, nil, tr.URL)
	_, _, err := c.GetManifest(t.Context(), "a", "latest")
	wantFault(t, err, fault.Denied)
	_, _, err = c.GetManifest(t.Context(), "a", "latest") // with the token at hand, which is young: no other would help
	f := wantFault(t, err, fault.Denied)
	if !strings.Contains(f.Message, "set credentials") || tr.get("401") != 3 || tr.get("token") != 1 {
		t.Errorf("%q, %v", f.Message, tr.m)
	}
	_, _, err = client(t, func(o *Options) { o.Credentials = who{Username: "u", Password: "hunter2"} }, tr.URL).GetManifest(t.Context(), "a", "latest")
	if f := wantFault(t, err, fault.Denied); !strings.Contains(f.Message, "credentials") || strings.Contains(f.Message, "set credentials") {
		t.Errorf("%q", f.Message)
	}
}

func TestTokenService(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		id     authn.AuthConfig
		kind   fault.Kind
		ok     bool
	}{
		"access_token":   {answer: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"a"}`) }, ok: true},
		"no token":       {answer: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{}`) }, kind: fault.Unavailable},
		"no JSON":        {answer: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `hunter2`) }, kind: fault.Unavailable},
		"broken header":  {answer: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"token":"a\nb"}`) }, kind: fault.Unavailable},
		"refused":        {answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) }, kind: fault.Denied},
		"forbidden":      {answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) }, kind: fault.Denied},
		"not there":      {answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, kind: fault.Denied},
		"down":           {answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, kind: fault.Unavailable},
		"throttled":      {answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) }, kind: fault.Throttled},
		"endless":        {answer: func(w http.ResponseWriter, r *http.Request) { io.CopyN(w, zeros{}, 2*maxTokenBody) }, kind: fault.Unavailable},
		"password":       {answer: wantBasic("u", "hunter2"), id: authn.AuthConfig{Username: "u", Password: "hunter2"}, ok: true},
		"identity token": {answer: wantRefresh("idt"), id: authn.AuthConfig{IdentityToken: "idt"}, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTokenRegistry(t)
			tr.grant = tc.answer
			_, _, err := client(t, func(o *Options) { o.Credentials = who(tc.id) }, tr.URL).GetManifest(t.Context(), "a", "latest")
			if tc.ok && err != nil {
				t.Fatal(err)
			}
			if !tc.ok {
				f := wantFault(t, err, tc.kind)
				if !strings.Contains(f.Message, "token from 127.0.0.1") || f.Op != "GET a/manifests/latest" {
					t.Errorf("does not say who failed: %v", err)
				}
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func wantBasic(user, password string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if u != user || p != password || r.URL.Query().Get("service") != "svc, one" || r.URL.Query().Get("account") != user {
			w.WriteHeader(401)
			return
		}
		io.WriteString(w, `{"token":"a"}`)
	}
}

func wantRefresh(token string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.PostFormValue("grant_type") != "refresh_token" || r.PostFormValue("refresh_token") != token ||
			r.PostFormValue("scope") != "repository:a:pull" || r.URL.RawQuery != "" || r.Header.Get("Authorization") != "" {
			w.WriteHeader(401)
			return
		}
		io.WriteString(w, `{"access_token":"a"}`)
	}
}

func TestBasicChallenge(t *testing.T) {
	var n counter
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n.add("asked")
		if u, p, _ := r.BasicAuth(); u != "u" || p != "hunter2" {
			w.Header().Set("WWW-Authenticate", `Basic realm="ecr"`)
			w.WriteHeader(401)
		}
	})
	c := client(t, func(o *Options) { o.Credentials = who{Username: "u", Password: "hunter2"} }, s.URL)
	for range 3 {
		if _, err := c.HeadManifest(t.Context(), "a", "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if n.get("asked") != 4 {
		t.Errorf("asked %d times, want one challenge and three answers", n.get("asked"))
	}
	_, err := client(t, nil, s.URL).HeadManifest(t.Context(), "a", "latest")
	wantFault(t, err, fault.Denied)
	_, err = client(t, func(o *Options) { o.Credentials = who{Username: "u", Password: "wrong"} }, s.URL).HeadManifest(t.Context(), "a", "latest")
	wantFault(t, err, fault.Denied)
}

func TestRegistryToken(t *testing.T) {
	tr := newTokenRegistry(t)
	tr.refuse = func(tok string) bool { return tok != "rt" }
	if _, _, err := client(t, func(o *Options) { o.Credentials = who{RegistryToken: "rt"} }, tr.URL).GetManifest(t.Context(), "a", "l"); err != nil || tr.get("401") != 0 {
		t.Errorf("%v, %v", err, tr.m)
	}
}

func TestRealmsThatAreRefused(t *testing.T) {
	for _, realm := range []string{"http://auth.example/token", "ftp://x/", "", "https://", "://"} {
		c := client(t, nil, "https://r.example")
		x := &exchange{op: "GET x", ep: c.endpoints[0]}
		_, err := c.answerTo(x, "a", []string{`Bearer realm="` + realm + `"`}, false)
		wantFault(t, err, fault.Refused)
	}
	tr := newTokenRegistry(t)
	tr.realm = "http://169.254.169.254/token"
	_, _, err := client(t, nil, tr.URL).GetManifest(t.Context(), "a", "l")
	wantFault(t, err, fault.Refused)
}

func TestTokensAreBounded(t *testing.T) {
	ts := newTokens()
	c := client(t, nil, "http://127.0.0.1:1")
	for i := range maxTokens + 100 {
		_, err := ts.get(t.Context(), tokenKey{scope: string(rune(i))}, fetcher{spawn: c.spawn, fetch: func() (*token, error) {
			return &token{value: "x", issued: time.Now(), life: time.Hour}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(ts.m) > maxTokens {
		t.Errorf("%d tokens are kept", len(ts.m))
	}
}

// Whoever is refused late must not throw away the successor of what was refused.
func TestDropIsForTheRefusedAlone(t *testing.T) {
	c := client(t, nil, "http://127.0.0.1:1")
	k := tokenKey{scope: "s"}
	n := 0
	get := func() *token {
		tok, err := c.tokens.get(t.Context(), k, fetcher{spawn: c.spawn, fetch: func() (*token, error) {
			n++
			return &token{issued: time.Now(), life: time.Hour}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	first := get()
	c.tokens.drop(k, first)
	get()
	c.tokens.drop(k, first)
	if get(); n != 2 {
		t.Errorf("%d tokens asked for, want 2", n)
	}

	pk := placeKey{repo: "r"}
	now, old := &place{until: time.Now().Add(time.Hour)}, &place{}
	_, lead, _ := c.places.find(t.Context(), pk)
	lead.finish(now, nil)
	c.places.drop(pk, old)
	if p, _, _ := c.places.find(t.Context(), pk); p != now {
		t.Error("the place that had not failed was dropped")
	}
}

// A storage host has no say in how we sign in at the registry.
func TestForeignChallengeIsIgnored(t *testing.T) {
	var n counter
	store := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n.add("store")
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://evil.example/token"`)
		w.WriteHeader(401)
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n.add("registry")
		http.Redirect(w, r, store.URL, 307)
	})
	c := client(t, func(o *Options) { o.Credentials = who{Username: "u", Password: "hunter2"} }, s.URL)
	_, _, err := c.GetManifest(t.Context(), "a", "l")
	wantFault(t, err, fault.Denied)
	if n.get("registry") != 1 || n.get("store") != 1 || c.endpoints[0].wayFor("a").scheme != "" {
		t.Errorf("%v", n.m)
	}
}
