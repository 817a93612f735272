package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/internal/fault"
)

// GetBlob makes one attempt, with sign-in and redirects, at each endpoint until one answers, and
// returns a 200 or a 206 whose Content-Range begins at off. n < 0 means to the end; with off 0 and
// n < 0 no range is asked for. The body must be closed; ctx must last as long as it is read. Its reads
// fail with a *fault.Error, also when no byte comes for Timeouts.Stall. A range beyond the end is a
// *fault.Error with Status 416. The bytes are not verified.
func (c *Client) GetBlob(ctx context.Context, repo string, d v1.Hash, off, n int64) (*http.Response, error) {
	r := &request{kind: "blob", method: http.MethodGet, repo: repo, tail: "blobs/" + d.String(), lane: laneBlob, rng: rangeOf(off, n)}
	if err := c.checkNames(r, d.String()); err != nil {
		return nil, err
	}
	if off < 0 || n == 0 {
		return nil, c.fail(fault.Unsupported, r.op(), "a range of no bytes")
	}
	s := c.begin(ctx)
	a, err := roam(c, s, func(ep *endpoint) (*answer, error) { return c.blobFrom(s, ep, r, d) })
	if err == nil {
		err = c.checkRange(a, r, off, n)
		if err != nil {
			a.Body.Close()
		}
	}
	if err != nil {
		s.end()
		return nil, err
	}
	s.calm()
	a.body.after(s.end)
	return a.Response, nil
}

func rangeOf(off, n int64) string {
	switch {
	case n > 0:
		return fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	case off > 0:
		return fmt.Sprintf("bytes=%d-", off)
	}
	return ""
}

// blobFrom asks where an earlier redirect led, if there is one, else the endpoint. Whoever comes while another
// finds out where the blob is waits for that. An address that is refused has expired: it
// is found anew once.
func (c *Client) blobFrom(s *span, ep *endpoint, r *request, d v1.Hash) (*answer, error) {
	key := placeKey{ep: ep, repo: r.repo, d: d}
	for tries := 0; ; tries++ {
		p, lead, err := c.places.find(s.ctx, key)
		switch {
		case err != nil:
			if _, ok := fault.As(err); ok {
				return nil, err
			}
			return nil, c.wireError(s.caller, r.op(), err, err)
		case lead != nil:
			return c.locate(s, ep, r, lead)
		case p.url == nil:
			return c.exchange(s, ep, r, nil)
		}
		a, err := c.exchange(s, ep, r, p)
		if err == nil || !stale(err) {
			return a, err
		}
		c.places.drop(key, p)
		if f, ok := fault.As(err); tries > 0 || ok && f.Status == 0 {
			return nil, err
		}
	}
}

// locate asks the endpoint and tells the others where that led.
func (c *Client) locate(s *span, ep *endpoint, r *request, lead *lookup) (a *answer, err error) {
	var found *place
	var shared error
	defer func() { lead.finish(found, shared) }()
	if a, err = c.exchange(s, ep, r, nil); err != nil {
		shared = forAll(err)
		return nil, err
	}
	found = placeOf(a)
	return a, nil
}

// stale reports whether err says something about the address rather than about this range.
func stale(err error) bool {
	f, ok := fault.As(err)
	if !ok || f.Kind == fault.Busy {
		return false
	}
	if f.Status == 0 {
		return true // not to be connected to: next time ask the registry again
	}
	return f.Status/100 == 4 && f.Status != http.StatusRequestedRangeNotSatisfiable && f.Status != http.StatusTooManyRequests
}

// checkRange makes sure that what came is what a reader of bytes off... may be given.
func (c *Client) checkRange(a *answer, r *request, off, n int64) error {
	if a.StatusCode == http.StatusOK {
		return nil
	}
	bad := func(why string) error {
		f := c.fail(fault.Damaged, r.op(), "%s sent %s", a.from.Host, why)
		f.Status = a.StatusCode
		return f
	}
	if a.StatusCode != http.StatusPartialContent || r.rng == "" {
		return bad("a status that fits no request of ours")
	}
	first, last, total, ok := contentRange(a.Header.Get("Content-Range"))
	switch {
	case !ok:
		return bad("a part without a usable Content-Range")
	case first != off || n > 0 && last > off+n-1 || total >= 0 && last >= total:
		return bad("another part than the one asked for")
	case a.ContentLength >= 0 && a.ContentLength != last-first+1:
		return bad("a part whose length contradicts its Content-Range")
	}
	return nil
}

// contentRange reads "bytes first-last/total"; total is -1 for "*".
func contentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, found := strings.Cut(s, "/")
	a, b, dash := strings.Cut(span, "-")
	if !ok || !found || !dash {
		return 0, 0, 0, false
	}
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	total = -1
	var err3 error
	if size != "*" {
		total, err3 = strconv.ParseInt(size, 10, 64)
	}
	if errors.Join(err1, err2, err3) != nil || first < 0 || last < first || size != "*" && total < 0 {
		return 0, 0, 0, false
	}
	return first, last, total, true
}

// HeadBlob asks whether a blob is there, and its size; -1 if the upstream doesn't say. Where HEAD
// is refused (addresses signed for GET), it asks by GET for one byte.
func (c *Client) HeadBlob(ctx context.Context, repo string, d v1.Hash) (size int64, err error) {
	r := &request{kind: "blob", method: http.MethodHead, repo: repo, tail: "blobs/" + d.String()}
	size, err = c.probe(ctx, r, d)
	f, ok := fault.As(err)
	if !ok {
		return size, err
	}
	switch f.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusBadRequest, http.StatusNotImplemented:
		r.method, r.rng = http.MethodGet, "bytes=0-0"
		return c.probe(ctx, r, d)
	}
	return size, err
}

// CheckBlob asks whether we may have a blob: nil if the registry would hand it out itself or redirect
// to where it is. The redirect is not followed.
func (c *Client) CheckBlob(ctx context.Context, repo string, d v1.Hash) error {
	r := &request{kind: "blob", method: http.MethodGet, repo: repo, tail: "blobs/" + d.String(), rng: "bytes=0-0", stay: true}
	_, err := c.probe(ctx, r, d)
	return err
}

// probe sends r, looks at the headers alone and returns the blob's size.
func (c *Client) probe(ctx context.Context, r *request, d v1.Hash) (int64, error) {
	if err := c.checkNames(r, d.String()); err != nil {
		return 0, err
	}
	s := c.begin(ctx)
	defer s.end()
	a, err := persist(c, s, func(ep *endpoint) (*answer, error) { return c.exchange(s, ep, r, nil) })
	if f, ok := fault.As(err); ok && f.Status == http.StatusRequestedRangeNotSatisfiable {
		return 0, nil // there is no first byte: the blob is there, and empty
	}
	if err != nil {
		return 0, err
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusPartialContent {
		_, _, total, ok := contentRange(a.Header.Get("Content-Range"))
		if !ok {
			return -1, nil
		}
		return total, nil
	}
	if isRedirect(a.StatusCode) {
		return -1, nil
	}
	return a.ContentLength, nil
}
