package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxWays = 1024
	// youngToken: a token refused within this time of being asked for was good, it only isn't enough.
	youngToken = 10 * time.Second
)

// authWay is how an endpoint wants us to sign in.
type authWay struct {
	scheme  string // "": not asked yet, or not at all; "basic"; "bearer"
	realm   string
	service string
	scope   string
	near    zone // where the endpoint was when it asked
}

// sameAs compares what a token would be asked for with.
func (w authWay) sameAs(o authWay) bool {
	w.near = o.near
	return w == o
}

// grant is what one try is sent with.
type grant struct {
	header string // value of Authorization, "" for none
	id     authn.AuthConfig
	way    authWay
	key    tokenKey
	tok    *token // the bearer token in header, nil for any other
	failed error  // why way's token service gave none
}

// signedIn reports whether the request told who we are.
func (g grant) signedIn() bool { return g.id != authn.AuthConfig{} }

// usualScope is what registries ask for in general.
func (ep *endpoint) usualScope(repo string) string {
	return "repository:" + ep.prefix + repo + ":pull"
}

// wayFor is what the next request to repo should sign in with, without having been asked.
func (ep *endpoint) wayFor(repo string) authWay {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if w, ok := ep.ways[repo]; ok {
		return w
	}
	w := ep.auth
	if w.scheme == "bearer" && (w.scope == "" || strings.HasPrefix(w.scope, "repository:")) {
		w.scope = ep.usualScope(repo)
	}
	return w
}

// learn remembers what a challenge asked for.
func (ep *endpoint) learn(repo string, w authWay) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	old := ep.auth
	ep.auth = w
	usual := w.scheme != "bearer" || w.scope == ep.usualScope(repo)
	if usual && (old.scheme == "" || old.scheme == w.scheme && old.realm == w.realm && old.service == w.service) {
		delete(ep.ways, repo)
		return
	}
	if len(ep.ways) >= maxWays {
		clear(ep.ways) // a challenge each, and they are back
	}
	ep.ways[repo] = w
}

// authorize says what a request to repo is sent with. Where the token service that is remembered gives
// none, that is nothing: the registry is asked where to sign in now.
func (c *Client) authorize(x *exchange, repo string) (grant, error) {
	id, err := c.identity(x, repo)
	if err != nil {
		return grant{}, err
	}
	g := grant{id: id, way: x.ep.wayFor(repo)}
	switch {
	case id.RegistryToken != "":
		g.header = "Bearer " + id.RegistryToken
	case g.way.scheme == "basic":
		g.header = basic(id)
	case g.way.scheme == "bearer":
		g.key = tokenKey{ep: x.ep, realm: g.way.realm, service: g.way.service, scope: g.way.scope, near: g.way.near, id: id}
		g.tok, g.failed = c.token(x, g.key)
		if g.failed != nil {
			return g, x.span.ctx.Err()
		}
		g.header = "Bearer " + g.tok.value
	}
	return g, nil
}

func (c *Client) identity(x *exchange, repo string) (authn.AuthConfig, error) {
	if c.o.Credentials == nil {
		return authn.AuthConfig{}, nil
	}
	id, err := c.o.Credentials.Authorization(x.ctx, x.ep.host, repo)
	if err == nil {
		return id, nil
	}
	if x.span.caller.Err() != nil {
		return id, c.gone(x.span.caller, x.op)
	}
	if f, ok := fault.As(err); ok {
		own := *f
		own.Upstream, own.Op = c.o.Name, x.op
		return id, &own
	}
	f := c.fail(fault.Unavailable, x.op, "no credentials to be had for this upstream")
	f.Err = err
	return id, f
}

func basic(id authn.AuthConfig) string {
	switch {
	case id.Username != "" || id.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(id.Username+":"+id.Password))
	case id.Auth != "":
		return "Basic " + id.Auth
	}
	return ""
}

// token waits for the token of k; one request at a time, whoever asks.
func (c *Client) token(x *exchange, k tokenKey) (*token, error) {
	tok, err := c.tokens.get(x.ctx, k, fetcher{
		spawn: c.spawn,
		fetch: func() (*token, error) { return c.fetchToken(k) },
	})
	if err == nil {
		return tok, nil
	}
	f, ok := fault.As(err)
	if !ok {
		return nil, c.wireError(x.span.caller, x.op, err, err)
	}
	own := *f
	own.Op, own.Message = x.op, strings.TrimSuffix(f.Op+": "+f.Message, ": ")
	return nil, &own
}

// answerTo picks a way to sign in from the challenges of a 401: bearer if it is offered, else basic.
func (c *Client) answerTo(x *exchange, repo string, headers []string, signsIn bool) (authWay, error) {
	var out authWay
	for _, ch := range parseChallenges(headers) {
		switch ch.scheme {
		case "basic":
			out = authWay{scheme: "basic"}
		case "bearer":
			realm, err := c.realm(x, ch.params["realm"], signsIn)
			if err != nil {
				return authWay{}, err
			}
			scope := ch.params["scope"]
			if scope == "" {
				scope = x.ep.usualScope(repo)
			}
			return authWay{scheme: "bearer", realm: realm, service: ch.params["service"], scope: scope, near: x.near}, nil
		}
	}
	return out, nil
}

// realm checks where a challenge wants us to ask for a token.
func (c *Client) realm(x *exchange, s string, signsIn bool) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", c.fail(fault.Refused, x.op, "asks to sign in at an address that cannot be used")
	}
	if u.Scheme == "http" && x.ep.base.Scheme != "http" {
		return "", c.fail(fault.Refused, x.op, "asks to sign in at %s without TLS: never done", u.Host)
	}
	if signsIn && u.Scheme == "http" && !x.ep.isOwn(u) {
		return "", c.fail(fault.Refused, x.op, "asks to sign in at %s, another address, without TLS: credentials are not sent there", u.Host)
	}
	u.User, u.Fragment = nil, ""
	return u.String(), nil
}

// retryWith decides after a 401 whether the request is worth repeating, and with what. again is
// false if we could only say the same once more.
func (c *Client) retryWith(x *exchange, repo string, headers []string, was grant) (g grant, again bool, err error) {
	if was.id.RegistryToken != "" {
		return was, false, nil
	}
	way, err := c.answerTo(x, repo, headers, was.signedIn())
	if err != nil || way.scheme == "" {
		return was, false, err
	}
	if was.failed != nil && way.sameAs(was.way) {
		return was, false, was.failed
	}
	if was.tok != nil {
		if way.sameAs(was.way) && time.Since(was.tok.issued) < youngToken {
			return was, false, nil
		}
		c.tokens.drop(was.key, was.tok)
	}
	x.ep.learn(repo, way)
	g, err = c.authorize(x, repo)
	if err == nil {
		err = g.failed
	}
	return g, err == nil && g.header != "" && g.header != was.header, err
}

// fetchToken asks the token service, on the client's own time.
func (c *Client) fetchToken(k tokenKey) (*token, error) {
	s := c.begin(c.ctx)
	defer s.end()
	started := time.Now()
	realm, err := url.Parse(k.realm)
	if err != nil {
		return nil, c.fail(fault.Refused, "token", "the token service has no usable address")
	}
	op := http.MethodGet
	if k.id.IdentityToken != "" {
		op = http.MethodPost
	}
	x := newExchange(s, k.ep, op+" token from "+realm.Host, op)
	x.near = k.near
	tok, n, err := c.askToken(x, realm, k, started)
	x.cancel(context.Canceled)
	if errors.Is(err, context.Canceled) {
		err = c.wireError(context.Background(), x.op, errClosed, err)
	}
	c.o.Observe(Event{Kind: "token", Result: resultOf(err), Bytes: n, Duration: time.Since(started)})
	return tok, err
}
