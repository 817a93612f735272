package upstream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/fault"
)

// A token service that has moved, or that differs from repository to repository, is found again by asking the registry.
func TestRealmIsLearntAgain(t *testing.T) {
	tokens := func(w http.ResponseWriter, r *http.Request, name string) {
		if !strings.HasPrefix(r.URL.Query().Get("scope"), "repository:"+name) {
			w.WriteHeader(403)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": "for-" + name, "expires_in": 300})
	}
	var moved atomic.Bool
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		base := "http://" + r.Host
		switch repo := strings.Split(r.URL.Path, "/")[2]; {
		case r.URL.Path == "/token/old" && moved.Load():
			w.WriteHeader(502)
		case strings.HasPrefix(r.URL.Path, "/token/"):
			name := strings.TrimPrefix(r.URL.Path, "/token/")
			if name == "old" || name == "new" {
				name = "moving"
			}
			tokens(w, r, name)
		case r.Header.Get("Authorization") != "Bearer for-"+repo:
			realm := repo
			if repo == "moving" {
				realm = map[bool]string{false: "old", true: "new"}[moved.Load()]
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token/%s",service="x",scope="repository:%s:pull"`, base, realm, repo))
			w.WriteHeader(401)
		default:
			fmt.Fprint(w, `{"tags":["v1"]}`)
		}
	})
	c := client(t, nil, s.URL)
	for _, repo := range []string{"moving", "a", "b", "a", "b", "moving"} {
		if _, err := c.Tags(t.Context(), repo); err != nil {
			t.Errorf("%s: %v", repo, err)
		}
	}
	moved.Store(true)
	c.tokens = newTokens() // they have expired
	for range 2 {
		if _, err := c.Tags(t.Context(), "moving"); err != nil {
			t.Errorf("after the move: %v", err)
		}
	}
}

// A refused password is not tried for every request: that locks accounts.
func TestRefusedLoginIsNotRepeated(t *testing.T) {
	var logins atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		base := "http://" + r.Host
		if r.URL.Path == "/token" {
			logins.Add(1)
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, base))
		w.WriteHeader(401)
	})
	c := client(t, func(o *Options) { o.Credentials = who{Username: "u", Password: "wrong"} }, s.URL)
	for i := range 10 {
		_, err := c.Tags(t.Context(), fmt.Sprintf("r%d", i))
		wantFault(t, err, fault.Denied)
	}
	if n := logins.Load(); n != 1 {
		t.Errorf("%d logins with a wrong password, want 1", n)
	}
}

// A connection that never became one of the registry's does not open private networks.
func TestZoneIsThatOfTheAnswer(t *testing.T) {
	s := &span{ctx: t.Context()}
	c := client(t, nil, "https://r.example")
	x := newExchange(s, c.endpoints[0], "GET x", "GET")
	defer x.cancel(nil)
	if x.near != zonePublic {
		t.Errorf("before any answer: %v", x.near)
	}
	if r := x.ep.guard.ruleFor("vault.corp", x.near, true); r.upTo != zonePublic {
		t.Errorf("a foreign host may be %v", r.upTo)
	}
}

// Digits of other scripts, which IDNA maps to plain ones, are refused before a proxy can be asked for them.
func TestNamesOfOtherScripts(t *testing.T) {
	for _, host := range []string{"１６９。２５４。１６９。２５４", "metadata．google．internal", "a b.example"} {
		if z, ok := literalZone(host); !ok || z != zoneForbidden {
			t.Errorf("%s: %v, %v", host, z, ok)
		}
	}
}

// Manifests are paid for by the blobs that come after them.
func TestManifestsDoNotWaitForBandwidth(t *testing.T) {
	m := newMeter(1)
	start := time.Now()
	m.pay(t.Context(), 1000, false)
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestFewRequests(t *testing.T) {
	for n := range 9 {
		api, blob := newGates(n)
		got := api.free
		if api != blob {
			got += blob.free
		}
		if got != max(1, n) {
			t.Errorf("limits.requests %d: %d places", n, got)
		}
	}
}
