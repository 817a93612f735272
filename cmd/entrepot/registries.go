package main

import (
	"container/list"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/entrepot/entrepot/authn"
	"github.com/entrepot/entrepot/config"
	"github.com/entrepot/entrepot/metrics"
	"github.com/entrepot/entrepot/proxy"
	"github.com/entrepot/entrepot/upstream"
)

// maxClients bounds the hosts that clients are kept for: a pattern stands for any number of them.
const maxClients = 256

// shared is what the clients of all upstreams have in common.
type shared struct {
	log     *slog.Logger
	metrics *metrics.Metrics
	via     string
}

// registries are the upstreams of one configuration, with a client for each
// host that has been asked. It implements proxy.Upstreams.
type registries struct {
	cfg    *config.Config
	shared shared
	plans  map[*config.Upstream]plan

	mu      sync.Mutex // guards all below
	clients map[string]*list.Element
	recent  *list.List // of *client, the latest used first
}

// A plan is what the clients of one upstream are made with; reading files for it
// may fail, which is found out when the configuration is loaded.
type plan struct {
	tls         []*tls.Config // of each endpoint, nil for the system's
	files       [][]byte      // what they were made of
	credentials upstream.Credentials
}

type client struct {
	host string
	u    *config.Upstream
	*upstream.Client
}

// newRegistries readies the upstreams of cfg. Clients of old are taken over where
// nothing has changed for them.
func newRegistries(cfg *config.Config, old *registries, s shared) (*registries, error) {
	r := &registries{cfg: cfg, shared: s, plans: map[*config.Upstream]plan{}, clients: map[string]*list.Element{}, recent: list.New()}
	for i := range cfg.Upstreams {
		u := &cfg.Upstreams[i]
		who, err := credentialsOf(u)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: credentials: %w", u.Name, err)
		}
		p := plan{credentials: who}
		for _, e := range u.Endpoints {
			t, files, err := tlsOf(e.TLS)
			if err != nil {
				return nil, fmt.Errorf("upstream %s: endpoint %s: %w", u.Name, e.URL, err)
			}
			p.tls, p.files = append(p.tls, t), append(p.files, files...)
		}
		r.plans[u] = p
	}
	if old != nil {
		r.adopt(old)
	}
	return r, nil
}

// adopt takes over the clients of old that are what new ones would be. The
// others are let go: what is under way with them ends, and their connections time out.
func (r *registries) adopt(old *registries) {
	old.mu.Lock()
	defer old.mu.Unlock()
	for e := old.recent.Back(); e != nil; e = e.Prev() {
		c := e.Value.(*client)
		u, host, ok := r.cfg.Lookup(c.host)
		if ok && host == c.host && reflect.DeepEqual(u, c.u) && r.cfg.Fetch.Timeouts == old.cfg.Fetch.Timeouts &&
			reflect.DeepEqual(r.plans[u].files, old.plans[c.u].files) {
			r.clients[host] = r.recent.PushFront(&client{host, u, c.Client})
		}
	}
}

// Lookup implements proxy.Upstreams.
func (r *registries) Lookup(name string) (proxy.Upstream, bool) {
	u, host, ok := r.cfg.Lookup(name)
	if !ok {
		return nil, false
	}
	return place{r, u, host}, true
}

// Default implements proxy.Upstreams.
func (r *registries) Default() string { return r.cfg.DefaultUpstream }

// A place is one host of one upstream.
type place struct {
	r    *registries
	u    *config.Upstream
	host string
}

func (p place) Host() string  { return p.host }
func (p place) Label() string { return string(p.u.Name) }

func (p place) Policy(repository string) proxy.Policy {
	c := p.u.Policy(repository)
	return proxy.Policy{
		Allow:     c.Allow,
		FreshFor:  time.Duration(c.Tags.FreshFor),
		StaleFor:  time.Duration(c.Tags.StaleFor),
		WaitFresh: time.Duration(c.Tags.WaitFresh),
		Moves:     c.Tags.Moves,
	}
}

// Registry returns the host's client, which is made when it is first asked for.
func (p place) Registry() (proxy.Registry, error) {
	r := p.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.clients[p.host]; ok {
		r.recent.MoveToFront(e)
		return e.Value.(*client).Client, nil
	}
	c, err := upstream.New(p.options())
	if err != nil {
		return nil, err
	}
	r.clients[p.host] = r.recent.PushFront(&client{p.host, p.u, c})
	if r.recent.Len() > maxClients {
		last := r.recent.Remove(r.recent.Back()).(*client)
		delete(r.clients, last.host)
	}
	return c, nil
}

func (p place) options() upstream.Options {
	t := p.r.cfg.Fetch.Timeouts
	made := p.r.plans[p.u]
	o := upstream.Options{
		Name:        p.host,
		Wild:        p.u.Name.Wild(),
		Credentials: made.credentials,
		AllowRedirect: func(host string) bool {
			if strings.Contains(host, ":") {
				host = "[" + host + "]" // as the configuration writes an IPv6 address
			}
			for _, a := range p.u.Redirects.Allow {
				if a.Match(host) {
					return true
				}
			}
			return false
		},
		Timeouts: upstream.Timeouts{
			Connect: time.Duration(t.Connect), Headers: time.Duration(t.Headers),
			Stall: time.Duration(t.Stall), Patience: time.Duration(t.Patience),
		},
		Requests:  p.u.Limits.Requests,
		Bandwidth: int64(p.u.Limits.Bandwidth),
		UserAgent: "entrepot/" + version(),
		Via:       p.r.shared.via,
		Log:       p.r.shared.log,
	}
	label, m := p.Label(), p.r.shared.metrics
	o.Observe = func(e upstream.Event) {
		m.Upstream(label, e.Kind, e.Result, e.Bytes, e.Duration)
		if e.Kind == "token" {
			m.Credentials(label, e.Result)
		}
	}
	for i, e := range p.u.EndpointsFor(p.host) {
		proxyURL := e.Proxy.String()
		if u := e.Proxy.URL(); u != nil {
			proxyURL = u.String()
		}
		o.Endpoints = append(o.Endpoints, upstream.Endpoint{URL: e.URL, Proxy: proxyURL, TLS: made.tls[i]})
	}
	return o
}

func (r *registries) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.clients {
		e.Value.(*client).Close()
	}
}

// credentialsOf says who we are at u, by repository.
func credentialsOf(u *config.Upstream) (authn.Credentials, error) {
	own, err := credentials(u.Credentials)
	if err != nil {
		return nil, err
	}
	var rules authn.ByRepository
	for i := range u.Rules {
		r := &u.Rules[i]
		rule := authn.Rule{Match: r.Matches, Credentials: own}
		if r.Credentials != nil {
			if rule.Credentials, err = credentials(*r.Credentials); err != nil {
				return nil, fmt.Errorf("rules[%d]: %w", i, err)
			}
		}
		rules = append(rules, rule)
	}
	if len(rules) == 0 {
		return own, nil
	}
	return append(rules, authn.Rule{Match: func(string) bool { return true }, Credentials: own}), nil
}

func credentials(c config.Credentials) (authn.Credentials, error) {
	switch c.Type {
	case config.CredentialsBasic:
		if c.PasswordFile != "" {
			return authn.NewBasicFile(c.Username, string(c.PasswordFile)), nil
		}
		return authn.NewBasic(c.Username, c.Password.Reveal()), nil
	case config.CredentialsDocker:
		return authn.NewDocker(string(c.ConfigFile))
	default:
		return authn.Anonymous{}, nil
	}
}

// tlsOf reads what an endpoint's connections are made with, nil for the system's defaults, and
// returns the files' contents too.
func tlsOf(c config.EndpointTLS) (*tls.Config, [][]byte, error) {
	if c == (config.EndpointTLS{}) {
		return nil, nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.InsecureSkipVerify} //nolint:gosec // the operator has said so
	var files [][]byte
	read := func(key string, path config.Path) ([]byte, error) {
		raw, err := os.ReadFile(string(path))
		if err != nil {
			return nil, fmt.Errorf("tls.%s: %w", key, err)
		}
		files = append(files, raw)
		return raw, nil
	}
	if c.CAFile != "" {
		pem, err := read("caFile", c.CAFile)
		if err != nil {
			return nil, nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, nil, errors.New("tls.caFile " + string(c.CAFile) + " holds no certificate (PEM)")
		}
	}
	if c.CertFile != "" {
		cert, err := read("certFile", c.CertFile)
		if err != nil {
			return nil, nil, err
		}
		key, err := read("keyFile", c.KeyFile)
		if err != nil {
			return nil, nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, nil, fmt.Errorf("tls.certFile and tls.keyFile: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, files, nil
}
