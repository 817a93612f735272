package upstream

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// lane separates connections by what travels on them.
type lane int

const (
	laneAPI  lane = iota // manifests, tags, tokens: HTTP/2 where it is spoken
	laneBlob             // blob bytes: HTTP/1.1, for over HTTP/2 all ranges would share one TCP flow
	lanes
)

// downFor is how long an endpoint that failed is asked after the others.
const downFor = 10 * time.Second

// endpoint is one address of the registry with its connections and what is known of its
// sign-in. It may be used by many goroutines.
type endpoint struct {
	base   *url.URL // scheme and host alone
	prefix string   // "" or "path/", put before every repository
	host   string   // host[:port] as configured, for credentials
	proxy  func(*url.URL) (*url.URL, error)
	guard  *guardian
	// own carries requests to the endpoint's host name, foreign those to hosts that it named. They
	// are pooled apart: a connection opened under one's rules must not serve the other.
	own, foreign [lanes]*http.Transport
	down         atomic.Int64 // Unix nanoseconds until which it counts as down

	mu   sync.Mutex
	auth authWay            // guarded by mu: what the last challenge asked for
	ways map[string]authWay // guarded by mu: of repositories for which it isn't auth with the usual scope; bounded
}

func newEndpoint(e Endpoint, o Options) (*endpoint, error) {
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("upstream %s: endpoint %q: want https://host[:port][/path]", o.Name, redactURL(u))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("upstream %s: endpoint %q: must not hold credentials, a query or a fragment", o.Name, redactURL(u))
	}
	ep := &endpoint{
		base:  &url.URL{Scheme: u.Scheme, Host: u.Host},
		host:  u.Host,
		ways:  map[string]authWay{},
		guard: newGuardian(strings.ToLower(u.Hostname()), o),
	}
	if p := strings.Trim(u.Path, "/"); p != "" && p != "v2" {
		ep.prefix = strings.TrimPrefix(p, "v2/") + "/"
	}
	if ep.proxy, err = proxyFunc(e.Proxy); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", o.Name, err)
	}
	own := tlsConfig(e.TLS)
	foreign := own.Clone()
	// What the operator configured for this host is not meant for hosts that it sends us to.
	foreign.Certificates, foreign.GetClientCertificate = nil, nil
	foreign.InsecureSkipVerify, foreign.ServerName = false, ""
	foreign.VerifyConnection, foreign.VerifyPeerCertificate = nil, nil
	for l := range lanes {
		ep.own[l] = newTransport(l, own.Clone(), ep.guard, o.Timeouts)
		ep.foreign[l] = newTransport(l, foreign.Clone(), ep.guard, o.Timeouts)
	}
	return ep, nil
}

func redactURL(u *url.URL) string {
	if u == nil {
		return "unreadable"
	}
	return u.Redacted()
}

func tlsConfig(c *tls.Config) *tls.Config {
	if c == nil {
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return c.Clone()
}

func proxyFunc(configured string) (func(*url.URL) (*url.URL, error), error) {
	switch configured {
	case "":
		return httpproxy.FromEnvironment().ProxyFunc(), nil
	case "direct":
		return func(*url.URL) (*url.URL, error) { return nil, nil }, nil
	}
	u, err := url.Parse(configured)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("proxy: want \"direct\" or http://, https:// or socks5:// and a host")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return func(*url.URL) (*url.URL, error) { return u, nil }, nil
	}
	return nil, fmt.Errorf("proxy: scheme %q is not known: want http, https or socks5", u.Scheme)
}

func newTransport(l lane, tc *tls.Config, g *guardian, t Timeouts) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	tr := &http.Transport{
		Proxy:                  func(r *http.Request) (*url.URL, error) { return wayOf(r.Context()).proxy, nil },
		DialContext:            g.dialContext,
		TLSClientConfig:        tc,
		TLSHandshakeTimeout:    t.Connect,
		ResponseHeaderTimeout:  t.Headers,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    32,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true,
		Protocols:              protocols,
	}
	if l == laneBlob {
		tr.ReadBufferSize = 64 << 10
		return tr
	}
	protocols.SetHTTP2(true)
	// A connection that died silently would take all requests on it down with it.
	tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: t.Stall, PingTimeout: t.Connect}
	return tr
}

// transport picks the pool for u.
func (ep *endpoint) transport(l lane, u *url.URL) *http.Transport {
	if strings.EqualFold(u.Hostname(), ep.guard.host) {
		return ep.own[l]
	}
	return ep.foreign[l]
}

// isOwn reports whether u is at the endpoint's own scheme, host and port: where credentials may go.
func (ep *endpoint) isOwn(u *url.URL) bool { return sameAuthority(ep.base, u) }

func sameAuthority(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

func (ep *endpoint) isDown(now time.Time) bool { return now.UnixNano() < ep.down.Load() }

func (ep *endpoint) setDown(down bool) {
	var until int64
	if down {
		until = time.Now().Add(downFor).UnixNano()
	}
	if ep.down.Load() != until {
		ep.down.Store(until)
	}
}

func (ep *endpoint) closeIdle() {
	for l := range lanes {
		ep.own[l].CloseIdleConnections()
		ep.foreign[l].CloseIdleConnections()
	}
}
