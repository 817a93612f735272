package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/entrepot/entrepot/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick are timeouts that let a test of waiting end soon.
var quick = Timeouts{Connect: time.Second, Headers: 300 * time.Millisecond, Stall: 200 * time.Millisecond, Patience: 2 * time.Second}

// serve starts a server that ends with the test.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// client returns a client of the servers at urls, closed before they are.
func client(t *testing.T, change func(*Options), urls ...string) *Client {
	t.Helper()
	o := Options{Name: "test.example", Timeouts: quick}
	for _, u := range urls {
		o.Endpoints = append(o.Endpoints, Endpoint{URL: u, Proxy: "direct"})
	}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func digest(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// serveBlob answers with b, ranges included.
func serveBlob(w http.ResponseWriter, r *http.Request, b []byte) {
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
}

func read(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantFault checks kind and that the error reveals nothing.
func wantFault(t *testing.T, err error, kind fault.Kind) *fault.Error {
	t.Helper()
	f, ok := fault.As(err)
	if !ok {
		t.Fatalf("got %v, want a fault %v", err, kind)
	}
	if f.Kind != kind {
		t.Fatalf("got %v: %v, want %v", f.Kind, err, kind)
	}
	if f.Upstream != "test.example" || f.Op == "" {
		t.Errorf("the error names upstream %q and op %q", f.Upstream, f.Op)
	}
	for _, leak := range []string{"sig=", "hunter2", "Bearer", "?"} {
		if strings.Contains(err.Error(), leak) {
			t.Errorf("the error shows %q: %v", leak, err)
		}
	}
	return f
}

// who is fixed credentials.
type who authn.AuthConfig

func (w who) Authorization(context.Context, string, string) (authn.AuthConfig, error) {
	return authn.AuthConfig(w), nil
}

// counter counts what requests said of themselves.
type counter struct {
	mu sync.Mutex
	m  map[string]int
}

func (c *counter) add(k string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]int{}
	}
	c.m[k]++
	return c.m[k]
}

func (c *counter) get(k string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[k]
}

// tokenRegistry is a registry behind a token service of its own; tokens are numbered, and only
// good is accepted.
type tokenRegistry struct {
	counter
	*httptest.Server
	realm   string // "": this server's /token
	scope   string // "": repository:<repo>:pull
	expires string // member of the token answer, e.g. `,"expires_in":300`
	refuse  func(tok string) bool
	grant   http.HandlerFunc // nil: number them
	content http.HandlerFunc
}

func newTokenRegistry(t *testing.T) *tokenRegistry {
	tr := &tokenRegistry{refuse: func(string) bool { return false }}
	tr.Server = serve(t, tr.handle)
	tr.realm = tr.URL + "/token"
	return tr
}

func (tr *tokenRegistry) handle(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		n := tr.add("token")
		tr.add("scope " + strings.Join(r.URL.Query()["scope"], "+"))
		if tr.grant != nil {
			tr.grant(w, r)
			return
		}
		fmt.Fprintf(w, `{"token":"tok%d"%s}`, n, tr.expires)
		return
	}
	tok, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || tr.refuse(tok) {
		tr.add("401")
		repo, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		scope := tr.scope
		if scope == "" {
			scope = "repository:" + repo + ":pull"
		}
		w.Header().Add("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="svc, one",scope="%s"`, tr.realm, scope))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	tr.add("ok")
	if tr.content != nil {
		tr.content(w, r)
		return
	}
	io.WriteString(w, `{"schemaVersion":2,"manifests":[]}`)
}

// fixed resolves every name to addr.
func fixed(addr string) func(context.Context, string) ([]netip.Addr, error) {
	return func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr(addr)}, nil
	}
}

// named is a server's address with another host name.
func named(t *testing.T, server, host string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + host + ":" + u.Port()
}
