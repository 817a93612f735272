package proxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/internal/registrytest"
	"github.com/entrepot/entrepot/metrics"
	"github.com/entrepot/entrepot/proxy"
	"github.com/entrepot/entrepot/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mib  = 1 << 20
	host = "registry.test"
	repo = "team/app"
)

// A stand is a test registry behind a real client, a real store and the handler
// on a listener of its own.
type stand struct {
	t        *testing.T
	registry *registrytest.Server
	store    *cache.Store
	handler  *proxy.Handler
	settings proxy.Settings
	url      string
	log      *safeBuffer
	client   *http.Client
}

// What a stand is built with; zero values are defaults for quick tests.
type setup struct {
	registry registrytest.Options
	cache    cache.Options
	timeouts upstream.Timeouts
	policy   proxy.Policy
}

func newStand(t *testing.T, o setup) *stand {
	t.Helper()
	s := &stand{t: t, log: &safeBuffer{}, registry: registrytest.Start(t, o.registry)}
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.timeouts == (upstream.Timeouts{}) {
		o.timeouts = upstream.Timeouts{Connect: time.Second, Headers: 2 * time.Second, Stall: 5 * time.Second, Patience: 10 * time.Second}
	}
	endpoint := upstream.Endpoint{URL: s.registry.URL(), Proxy: "direct", TLS: clientTLS(s.registry)}
	c, err := upstream.New(upstream.Options{Name: host, Endpoints: []upstream.Endpoint{endpoint}, Timeouts: o.timeouts, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if o.cache.Dir == "" {
		o.cache.Dir = t.TempDir()
	}
	if o.cache.Patience == 0 {
		o.cache.Patience = o.timeouts.Patience
	}
	o.cache.Log = log
	if s.store, err = cache.Open(o.cache); err != nil {
		t.Fatal(err)
	}
	if o.policy.Moves == nil {
		o.policy.Moves = func(string) bool { return true }
	}
	if o.policy.StaleFor == 0 {
		o.policy.StaleFor, o.policy.WaitFresh = time.Hour, time.Second
	}
	o.policy.Allow = true
	ctx, cancel := context.WithCancel(context.Background())
	s.settings = proxy.Settings{
		Upstreams: &testUpstream{reg: c, policy: o.policy}, Access: true,
		Hostname: func(string) bool { return false },
	}
	s.handler = proxy.New(ctx, proxy.Options{
		Store: s.store, Metrics: metrics.New("test"), Log: log, Instance: "entrepot-test", Patience: o.timeouts.Patience,
	}, s.settings)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	s.url = "http://" + l.Addr().String()
	s.client = &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 200}, Timeout: time.Minute}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		cancel()
		if err := s.store.Close(context.Background()); err != nil {
			t.Error(err)
		}
		c.Close()
	})
	return s
}

// testUpstream is the only upstream there is.
type testUpstream struct {
	reg    proxy.Registry
	policy proxy.Policy
}

func (u *testUpstream) Lookup(name string) (proxy.Upstream, bool) { return u, name == host }
func (u *testUpstream) Default() string                           { return host }
func (u *testUpstream) Host() string                              { return host }
func (u *testUpstream) Label() string                             { return host }
func (u *testUpstream) Policy(string) proxy.Policy                { return u.policy }
func (u *testUpstream) Registry() (proxy.Registry, error)         { return u.reg, nil }

// A reply is an answer that was read to its end, or to where it broke.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

// ask sends one request; header are pairs.
func (s *stand) ask(method, path string, header ...string) reply {
	s.t.Helper()
	r, err := s.start(context.Background(), method, path, header...)
	if err != nil {
		return reply{err: err}
	}
	defer r.Body.Close()
	out := reply{status: r.StatusCode, header: r.Header}
	if r.ContentLength > 0 && method != http.MethodHead { // growing a buffer under the race detector costs seconds
		out.body = make([]byte, r.ContentLength)
		n, err := io.ReadFull(r.Body, out.body)
		out.body, out.err = out.body[:n], err
	}
	rest, err := io.ReadAll(r.Body)
	out.body = append(out.body, rest...)
	out.err = errors.Join(out.err, err)
	return out
}

func (s *stand) start(ctx context.Context, method, path string, header ...string) (*http.Response, error) {
	rq, err := http.NewRequestWithContext(ctx, method, s.url+path, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		rq.Header.Set(header[i], header[i+1])
	}
	return s.client.Do(rq)
}

func (s *stand) get(path string, header ...string) reply { return s.ask("GET", path, header...) }

func blobPath(d v1.Hash) string      { return "/v2/" + repo + "/blobs/" + d.String() }
func manifestPath(ref string) string { return "/v2/" + repo + "/manifests/" + ref }
func (r reply) whole(want []byte) bool {
	return r.err == nil && r.status == 200 && bytes.Equal(r.body, want)
}

func (r reply) String() string {
	b := r.body
	if len(b) > 300 || r.header.Get("Content-Type") == "application/octet-stream" {
		b = b[:min(len(b), 40)]
	}
	return fmt.Sprintf("%d %v %q (%d bytes, %v)", r.status, r.header, b, len(r.body), r.err)
}

// blobBytes counts what crossed the upstream link for blobs.
func (s *stand) blobBytes() int64 {
	if n := s.registry.BodyBytes(registrytest.Match{Kind: registrytest.KindStorage}); n > 0 {
		return n // what the registry's port sends is redirects
	}
	return s.registry.BodyBytes(registrytest.Match{Kind: registrytest.KindBlob, Method: "GET"})
}

// once asserts 1.00 x: the content's bytes crossed the link once, and hardly anything else did.
func (s *stand) once(size int64) {
	s.t.Helper()
	s.settle()
	if got := s.blobBytes(); got != size {
		s.t.Errorf("the upstream sent %d bytes of blobs, want %d: %.4f x", got, size, float64(got)/float64(size))
	}
	if sent, _ := s.registry.SocketBytes(); sent > size+size/100+256<<10 {
		s.t.Errorf("%d bytes left the upstream's sockets for %d of content", sent, size)
	}
}

// settle waits until no fill runs.
func (s *stand) settle() {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); s.store.Stats().Fills > 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("a fill does not end")
		}
	}
}

// content returns size pseudo-random bytes.
func content(seed uint64, size int64) []byte {
	b := make([]byte, size)
	_, _ = io.ReadFull(io.NewSectionReader(registrytest.Synthetic(seed, size), 0, size), b)
	return b
}

func clientTLS(s *registrytest.Server) *tls.Config {
	if s.CA() == nil {
		return nil
	}
	return &tls.Config{RootCAs: s.CA(), MinVersion: tls.VersionTLS12}
}

func digestOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// safeBuffer is a log that may be written and read at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// noErrors asserts that nothing was logged as our mistake.
func (s *stand) noErrors() {
	s.t.Helper()
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "level=ERROR") {
			s.t.Errorf("logged: %s", line)
		}
	}
}
