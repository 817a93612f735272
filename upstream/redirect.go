package upstream

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"github.com/entrepot/entrepot/internal/fault"
)

const maxRedirects = 10

// exchange is one request with its sign-in and its redirects, on its way to one endpoint.
type exchange struct {
	span   *span
	ctx    context.Context // the span's, and ended by timers
	cancel context.CancelCauseFunc
	ep     *endpoint
	op     string
	method string
	header http.Header // without Authorization
	body   func() io.Reader
	lane   lane
	near   zone // where the endpoint is, by the connection that its latest answer came on
	stay   bool // a redirect is an answer, not to be followed
}

// newExchange must be followed by cancel.
func newExchange(s *span, ep *endpoint, op, method string) *exchange {
	x := &exchange{span: s, ep: ep, op: op, method: method, header: http.Header{}, near: ep.guard.literal}
	x.ctx, x.cancel = context.WithCancelCause(s.ctx)
	return x
}

// follow sends x to u and goes where it is sent. auth is for u's scheme, host and port; a
// redirect to any other drops it for good. It returns the answer and where that came from.
func (c *Client) follow(x *exchange, u *url.URL, auth string) (*http.Response, *url.URL, error) {
	for hops := 0; ; hops++ {
		resp, err := c.hop(x, u, auth)
		if err != nil {
			return nil, nil, err
		}
		if x.stay || !isRedirect(resp.StatusCode) {
			return resp, u, nil
		}
		next, err := c.nextHop(x, u, resp)
		discard(resp)
		if err != nil {
			return nil, nil, err
		}
		if hops == maxRedirects {
			return nil, nil, c.fail(fault.Refused, x.op, "more than %d redirects", maxRedirects)
		}
		if !sameAuthority(u, next) {
			auth = ""
		}
		u = next
	}
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// nextHop reads Location. Its text stays out of errors: it may be signed.
func (c *Client) nextHop(x *exchange, u *url.URL, resp *http.Response) (*url.URL, error) {
	next, err := u.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" || next.Hostname() == "" {
		f := c.fail(fault.Damaged, x.op, "a redirect from %s without a usable Location", u.Host)
		f.Status = resp.StatusCode
		return nil, f
	}
	if next.Scheme != "https" && next.Scheme != "http" {
		return nil, c.fail(fault.Refused, x.op, "a redirect from %s to something else than http", u.Host)
	}
	if u.Scheme == "https" && next.Scheme == "http" {
		return nil, c.fail(fault.Refused, x.op, "a redirect from https to http at %s: never followed", next.Host)
	}
	if x.method == http.MethodPost {
		return nil, c.fail(fault.Refused, x.op, "a redirect of a sign-in from %s to %s: never followed", u.Host, next.Host)
	}
	// What stands before the host is no credential of ours, and would show where the address is printed.
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	return next, nil
}

// hop is one request and one answer.
func (c *Client) hop(x *exchange, u *url.URL, auth string) (*http.Response, error) {
	if err := x.ep.guard.checkName(u, x.near); err != nil {
		return nil, c.wireError(x.span.caller, x.op, nil, err)
	}
	proxy, err := x.ep.proxy(u)
	if err != nil {
		return nil, c.fail(fault.Unavailable, x.op, "the proxy of the environment is not usable: check HTTPS_PROXY")
	}
	ctx := context.WithValue(x.ctx, wayKey{}, way{proxy: proxy, near: x.near})
	if proxy == nil && x.ep.transport(x.lane, u) == x.ep.own[x.lane] {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { x.near = zoneOf(i.Conn) }})
	}
	req := (&http.Request{Method: x.method, URL: u, Host: u.Host, Header: x.header.Clone()}).WithContext(ctx)
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	if x.body != nil {
		req.Body = io.NopCloser(x.body())
	}
	c.dress(req)
	timer := time.AfterFunc(c.headerLimit(), func() { x.cancel(errHeaders) })
	resp, err := x.ep.transport(x.lane, u).RoundTrip(req)
	timer.Stop()
	if err != nil {
		return nil, c.wireError(x.span.caller, x.op, context.Cause(x.ctx), err)
	}
	return resp, nil
}

// dress sets what every request carries.
func (c *Client) dress(req *http.Request) {
	req.Header.Set("User-Agent", c.o.UserAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if c.o.Via != "" {
		req.Header.Set("Via", c.o.Via)
	}
}

// discard closes a body of no interest, and keeps its connection if the rest is short.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	resp.Body.Close()
}
