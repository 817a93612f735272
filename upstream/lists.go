package upstream

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxList  = 16 << 20 // bytes of one list, all its pages together
	maxPages = 100
	tagsPage = "1000" // the most that registries in general take
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
	f := c.fail(fault.NotFound, printable(r.op()), "%q is no name of a repository, or %q none of a tag or digest", printable(r.repo), printable(ref))
	f.Code = "NAME_INVALID"
	return f
}

// Tags returns all tags of a repository, in the upstream's order.
func (c *Client) Tags(ctx context.Context, repo string) ([]string, error) {
	r := &request{kind: "tags", method: http.MethodGet, repo: repo, tail: "tags/list", query: url.Values{"n": {tagsPage}}, accept: "application/json"}
	if err := c.checkNames(r, "tags"); err != nil {
		return nil, err
	}
	s := c.begin(ctx)
	defer s.end()
	pages, err := c.pages(s, r)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, p := range pages {
		var list struct {
			Tags []string `json:"tags"`
		}
		if json.Unmarshal(p.raw, &list) != nil {
			return nil, c.fail(fault.Damaged, r.op(), "the list of tags is no JSON")
		}
		all = append(all, list.Tags...)
	}
	return all, nil
}

// listPage is one page of a list.
type listPage struct {
	raw  []byte
	ep   *endpoint
	from *url.URL
	next string // what Link with rel=next holds, "" for none
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
		p := &listPage{ep: ep, from: a.from, next: nextLink(a.Header.Values("Link"))}
		p.raw, err = c.readAll(a, r, limit)
		return p, err
	})
}

// Referrers returns the index of what refers to d, all its pages as one; a single page is returned
// as it came. An upstream without this API is fault.Unsupported; its fall-back tag is the
// caller's business.
func (c *Client) Referrers(ctx context.Context, repo string, d v1.Hash) (index []byte, err error) {
	r := &request{kind: "referrers", method: http.MethodGet, repo: repo, tail: "referrers/" + d.String(), query: url.Values{}, accept: string(types.OCIImageIndex)}
	if err := c.checkNames(r, d.String()); err != nil {
		return nil, err
	}
	s := c.begin(ctx)
	defer s.end()
	pages, err := c.pages(s, r)
	if err != nil {
		return nil, noReferrers(err)
	}
	if index, err = merge(pages); err != nil {
		return nil, c.fail(fault.Unsupported, r.op(), "what came is no index: the upstream doesn't know referrers")
	}
	return index, nil
}

// pages gets a list from its first page to its last, within bounds.
func (c *Client) pages(s *span, r *request) ([]*listPage, error) {
	var pages []*listPage
	left := int64(maxList)
	for {
		p, err := c.page(s, r, left)
		if err != nil {
			return nil, err
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
