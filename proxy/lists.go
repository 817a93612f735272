package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/entrepot/entrepot/internal/fault"
)

// tags answers tags/list: the upstream's tags in lexical order, in pages of the
// client's own size (OCI distribution specification, "Listing Tags").
func (h *Handler) tags(w *response, c *call) error {
	query := c.URL.Query()
	limit := -1
	if s := query.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return answer(http.StatusBadRequest, codeUnsupported, "n is the number of tags wanted: zero or more")
		}
		limit = n
	}
	all, err := h.allTags(w, c)
	if err != nil {
		return err
	}
	page, more := pageOf(all, query.Get("last"), limit)
	if more {
		w.Header().Set("Link", nextPage(c, page[len(page)-1], limit))
	}
	body, err := json.Marshal(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{c.route.Name, page})
	if err != nil {
		return fmt.Errorf("proxy: list of tags: %w", err)
	}
	return h.json(w, c, body, "application/json")
}

// allTags asks the upstream; while it can't be reached, the tags that are known here are all there is.
func (h *Handler) allTags(w *response, c *call) ([]string, error) {
	all, err := fly(&h.flights, "tags "+c.repo.String(), func(ctx context.Context) ([]string, error) {
		tags, err := c.reg.Tags(ctx, c.repo.Name)
		slices.Sort(tags)
		return slices.Compact(tags), err
	}).land(c.Context())
	result := miss
	if err != nil && masked(err) && c.Context().Err() == nil {
		here, hereErr := h.o.Store.Tags(c.repo)
		if hereErr != nil || len(here) == 0 {
			return nil, err
		}
		h.o.Metrics.Stale(c.upstream.Label(), cause(err))
		w.Header().Set("Warning", `110 - "Response is Stale"`)
		all, result, err = here, stale, nil
	}
	w.Header().Set("X-Cache", result)
	return all, err
}

// pageOf returns at most limit tags after last, all if limit is negative; more says that others follow.
func pageOf(all []string, last string, limit int) (page []string, more bool) {
	if last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	page = make([]string, 0, len(all)) // "tags": [], not null
	if limit < 0 || limit >= len(all) {
		return append(page, all...), false
	}
	return append(page, all[:limit]...), limit > 0
}

// nextPage is a Link (RFC 8288) whose target is routed as this request was.
func nextPage(c *call, last string, limit int) string {
	q := url.Values{"n": {strconv.Itoa(limit)}, "last": {last}}
	if ns := c.URL.Query().Get("ns"); ns != "" {
		q.Set("ns", ns)
	}
	return fmt.Sprintf(`<%s?%s>; rel="next"`, c.URL.EscapedPath(), q.Encode())
}

// json sends a small body that has no digest.
func (h *Handler) json(w *response, c *call, body []byte, mediaType string) error {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if c.Method == http.MethodHead {
		return nil
	}
	return content{from: memory(body)}.body(w, 0, -1)
}

// hasNoReferrersAPI reports whether a registry has said that it lacks this part of the API.
func hasNoReferrersAPI(err error) bool {
	return fault.Is(err, fault.Unsupported) || fault.Is(err, fault.NotFound)
}
