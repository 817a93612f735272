package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/entrepot/entrepot/internal/fault"
)

// request is a question to the registry; it doesn't change while it is tried.
type request struct {
	kind   string // for events
	method string
	repo   string
	tail   string // what follows the repository, e.g. "manifests/3.20"
	query  url.Values
	accept string
	rng    string // Range header, "" for none
	lane   lane
	stay   bool      // a redirect is an answer, not to be followed
	page   *url.URL  // a later page of a list; nil: built from the rest
	at     *endpoint // whose page that is
}

// op is the request as errors name it: never with a query.
func (r *request) op() string { return r.method + " " + r.repo + "/" + r.tail }

// address is where r goes at ep: https://host/v2/<prefix><repo>/<tail>.
func (r *request) address(ep *endpoint) *url.URL {
	if r.page != nil {
		return r.page
	}
	u := *ep.base
	u.Path = "/v2/" + ep.prefix + r.repo + "/" + r.tail
	u.RawQuery = r.query.Encode()
	return &u
}

// answer is a success: any 2xx, or a redirect that was to stay. Its body must be closed.
type answer struct {
	*http.Response
	from *url.URL // where it came from in the end
	near zone     // where the endpoint was when it sent us there
	own  bool     // the registry itself answered
	body *body
}

// slots is what bounds requests of a lane.
func (c *Client) slots(l lane) *gate {
	if l == laneBlob {
		return c.blob
	}
	return c.api
}

// exchange sends r to ep, or straight to a place that an earlier redirect named. It signs in and
// repeats once if asked to. Errors are *fault.Error, or wrap the caller's context's.
func (c *Client) exchange(s *span, ep *endpoint, r *request, to *place) (*answer, error) {
	x := newExchange(s, ep, r.op(), r.method)
	x.lane, x.stay = r.lane, r.stay
	if r.accept != "" {
		x.header.Set("Accept", r.accept)
	}
	if r.rng != "" {
		x.header.Set("Range", r.rng)
	}
	started := time.Now()
	places := c.slots(r.lane)
	if err := places.enter(x.ctx, r.tail); err != nil {
		cause := context.Cause(x.ctx)
		x.cancel(context.Canceled)
		return nil, c.busy(s, r, cause)
	}
	done := func(result string, n int64) {
		places.leave(r.tail)
		c.o.Observe(Event{Kind: r.kind, Result: result, Bytes: n, Duration: time.Since(started)})
	}
	resp, from, err := c.send(x, r, to) //nolint:bodyclose // it is the answer's body
	if err != nil {
		x.cancel(context.Canceled)
		done(resultOf(err), 0)
		return nil, err
	}
	a := &answer{Response: resp, from: from, near: x.near, own: ep.isOwn(from)}
	a.body = c.newBody(x, resp, done)
	resp.Body = a.body
	return a, nil
}

// busy says that no place in the queue came free.
func (c *Client) busy(s *span, r *request, cause error) error {
	if s.caller.Err() == nil && errors.Is(cause, errPatience) {
		return c.fail(fault.Busy, r.op(), "all %d requests that this upstream may have at once are under way (limits.requests)", c.o.Requests)
	}
	return c.wireError(s.caller, r.op(), cause, cause)
}

// send returns a success, or a fault with everything closed.
func (c *Client) send(x *exchange, r *request, to *place) (*http.Response, *url.URL, error) {
	if to != nil {
		x.near = to.near
		resp, from, err := c.follow(x, to.url, "")
		return c.judge(x, resp, from, false, err)
	}
	u := r.address(x.ep)
	g, err := c.authorize(x, r.repo)
	if err != nil {
		return nil, nil, err
	}
	resp, from, err := c.follow(x, u, g.header) // without a header if a remembered token service failed: where is it now?
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !x.ep.isOwn(from) {
		return c.judge(x, resp, from, g.signedIn(), err)
	}
	headers := resp.Header.Values("WWW-Authenticate")
	refused := c.statusError(x.op, resp, true, g.signedIn())
	g, again, err := c.retryWith(x, r.repo, headers, g)
	if err != nil {
		return nil, nil, err
	}
	if !again {
		return nil, nil, refused
	}
	resp, from, err = c.follow(x, u, g.header)
	return c.judge(x, resp, from, g.signedIn(), err)
}

// judge lets successes through.
func (c *Client) judge(x *exchange, resp *http.Response, from *url.URL, signedIn bool, err error) (*http.Response, *url.URL, error) {
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode/100 != 2 && !(x.stay && isRedirect(resp.StatusCode)) {
		return nil, nil, c.statusError(x.op, resp, x.ep.isOwn(from), signedIn)
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		resp.Body.Close()
		f := c.fail(fault.Damaged, x.op, "%s sent content encoding %q, which was not asked for", from.Host, printable(e))
		f.Status = resp.StatusCode
		return nil, nil, f
	}
	return resp, from, nil
}
