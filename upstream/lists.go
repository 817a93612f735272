package upstream

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxList  = 16 << 20 // bytes of one list, all its pages together
	maxPages = 100
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// checkNames refuses what would become another address than it looks like. Callers have checked
// names against the spec's grammar; this is the last door before a URL.
func (c *Client) checkNames(r *request, ref string) error {
	bad := ref == "" || strings.ContainsAny(ref, "/\\") || ref == "." || ref == ".."
	for seg := range strings.SplitSeq(r.repo, "/") {
		bad = bad || seg == "" || seg == "." || seg == ".." || strings.ContainsRune(seg, '\\')
	}
	if !bad {
		return nil
	}
	f := c.fail(fault.NotFound, "", "%q is no name of a repository, or %q none of a tag or digest", printable(r.repo), printable(ref))
	f.Code = "NAME_INVALID"
	return f
}

// Tags returns a page of tags in the upstream's order: at most n (n <= 0: as many as it gives), those
// after last. more: the upstream says that there is another page.
func (c *Client) Tags(ctx context.Context, repo string, n int, last string) (tags []string, more bool, err error) {
	r := &request{kind: "tags", method: http.MethodGet, repo: repo, tail: "tags/list", query: url.Values{}, accept: "application/json"}
	if n > 0 {
		r.query.Set("n", strconv.Itoa(n))
	}
	if last != "" {
		r.query.Set("last", last)
	}
	if err := c.checkNames(r, "tags"); err != nil {
		return nil, false, err
	}
	s := c.begin(ctx)
	defer s.end()
	p, err := c.page(s, r, maxList)
	if err != nil {
		return nil, false, err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if json.Unmarshal(p.raw, &list) != nil {
		return nil, false, c.fail(fault.Damaged, r.op(), "the list of tags is no JSON")
	}
	return list.Tags, p.next != "", nil
}

// listPage is one page of a list.
type listPage struct {
	raw      []byte
	header   http.Header
	ep       *endpoint
	from     *url.URL
	next     string // what Link with rel=next holds, "" for none
	status   int
	filtered bool
}

func (c *Client) page(s *span, r *request, limit int64) (*listPage, error) {
	return persist(c, s, func(ep *endpoint) (*listPage, error) {
		if r.page != nil {
			ep = r.at // another endpoint's credentials have no business there
		}
		a, err := c.exchange(s, ep, r, nil)
		if err != nil {
			return nil, err
		}
		defer a.Body.Close()
		p := &listPage{header: a.Header, ep: ep, from: a.from, status: a.StatusCode, next: nextLink(a.Header.Values("Link"))}
		p.filtered = namesFilter(a.Header.Values("OCI-Filters-Applied"), "artifactType")
		p.raw, err = c.readAll(a, r, limit)
		return p, err
	})
}

// Referrers returns the index of what refers to d, all its pages as one; a single page is returned
// as it came. filtered: the upstream has applied artifactType. An upstream without this
// API is fault.Unsupported; its fall-back tag is the caller's business.
func (c *Client) Referrers(ctx context.Context, repo string, d v1.Hash, artifactType string) (index []byte, filtered bool, err error) {
	r := &request{kind: "referrers", method: http.MethodGet, repo: repo, tail: "referrers/" + d.String(), query: url.Values{}, accept: string(types.OCIImageIndex)}
	if artifactType != "" {
		r.query.Set("artifactType", artifactType)
	}
	if err := c.checkNames(r, d.String()); err != nil {
		return nil, false, err
	}
	s := c.begin(ctx)
	defer s.end()
	pages, err := c.referrerPages(s, r)
	if err != nil {
		return nil, false, err
	}
	filtered = artifactType != ""
	for _, p := range pages {
		filtered = filtered && p.filtered
	}
	index, err = merge(pages)
	if err != nil {
		return nil, false, c.fail(fault.Unsupported, r.op(), "what came is no index: the upstream doesn't know referrers")
	}
	return index, filtered, nil
}

func (c *Client) referrerPages(s *span, r *request) ([]*listPage, error) {
	var pages []*listPage
	left := int64(maxList)
	for {
		p, err := c.page(s, r, left)
		if err != nil {
			return nil, noReferrers(err)
		}
		pages = append(pages, p)
		left -= int64(len(p.raw))
		if p.next == "" {
			return pages, nil
		}
		if len(pages) == maxPages {
			return nil, c.fail(fault.Damaged, r.op(), "the list has more than %d pages, the most that is accepted", maxPages)
		}
		next, err := p.from.Parse(p.next)
		if err != nil || !p.ep.isOwn(next) {
			return nil, c.fail(fault.Refused, r.op(), "the next page of the list is at another address than the registry")
		}
		next.User, next.Fragment = nil, ""
		following := *r
		following.page, following.at = next, p.ep
		r = &following
	}
}

// noReferrers: the spec has no 404 for referrers, so that it means "no such API", unless the repository is unknown.
func noReferrers(err error) error {
	f, ok := fault.As(err)
	if !ok || f.Code == "NAME_UNKNOWN" {
		return err
	}
	switch f.Status {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusNotAcceptable:
		own := *f
		own.Kind = fault.Unsupported
		return &own
	}
	return err
}

// merge puts the manifests of all pages into the first one.
func merge(pages []*listPage) ([]byte, error) {
	var first map[string]json.RawMessage
	all := []json.RawMessage{} // never null, also when no page holds any
	for i, p := range pages {
		var page map[string]json.RawMessage
		var manifests []json.RawMessage
		if err := json.Unmarshal(p.raw, &page); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(page["manifests"], &manifests); err != nil {
			return nil, err // also where there is no such member
		}
		if i == 0 {
			first = page
		}
		all = append(all, manifests...)
	}
	if len(pages) == 1 {
		return pages[0].raw, nil
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	first["manifests"] = raw
	return json.Marshal(first)
}

// namesFilter reports whether a header of comma-separated names holds name.
func namesFilter(values []string, name string) bool {
	for _, v := range values {
		for f := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(f), name) {
				return true
			}
		}
	}
	return false
}

// nextLink returns the address of the first Link with rel=next (RFC 8288).
func nextLink(values []string) string {
	for _, v := range values {
		for {
			_, rest, ok := strings.Cut(v, "<")
			if !ok {
				break
			}
			target, rest, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			params, _, _ := strings.Cut(rest, "<")
			if isNext(params) {
				return target
			}
			v = rest
		}
	}
	return ""
}

func isNext(params string) bool {
	for p := range strings.FieldsFuncSeq(params, func(r rune) bool { return r == ';' || r == ',' }) {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(k), "rel") && strings.EqualFold(strings.Trim(strings.TrimSpace(v), `"`), "next") {
			return true
		}
	}
	return false
}
