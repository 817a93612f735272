package proxy

import (
	"context"
	"errors"
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache"
)

const octetStream = "application/octet-stream"

func (h *Handler) blob(w *response, c *call) error {
	if c.Method == http.MethodHead || c.Header.Get("If-None-Match") != "" {
		done, err := h.blobHead(w, c)
		if done || err != nil {
			return err
		}
	}
	ranges, err := parseRange(c.Header.Get("Range"))
	if err != nil {
		if size, state := h.o.Store.State(c.route.Digest); state == cache.Here {
			e := *errRangeSyntax
			e.size = size
			err = &e
		}
		return err
	}
	ask := cache.Ask{N: -1}
	if len(ranges) > 0 && c.Header.Get("If-Range") == "" {
		ask.Off, ask.N = ranges[0].ask()
	}
	r, err := h.open(c, ask)
	if err != nil {
		return err
	}
	defer r.Close()
	w.Header().Set("X-Cache", map[cache.Origin]string{cache.Hit: hit, cache.Joined: filling, cache.Started: miss}[r.Origin()])
	return send(w, c, content{
		digest: c.route.Digest, mediaType: octetStream, size: r.Size(), want: r.Want,
		from: func(w *response, off, n int64) error {
			_, err := r.CopyRange(w, off, n)
			return err
		},
	})
}

// open returns a reader of the blob once it is known that this repository has it: by a link,
// or because the upstream has just said so.
func (h *Handler) open(c *call, ask cache.Ask) (*cache.Reader, error) {
	d := c.route.Digest
	ask.Hint, ask.Confirmed = h.o.Store.Linked(c.repo, d)
	linked := ask.Confirmed
	r, err := h.o.Store.Blob(c.Context(), d, source{c.reg, c.repo}, ask)
	if errors.Is(err, cache.ErrUnconfirmed) {
		if err := h.check(c, d); err != nil {
			return nil, err
		}
		ask.Confirmed = true
		r, err = h.o.Store.Blob(c.Context(), d, source{c.reg, c.repo}, ask)
	}
	if err == nil && !linked {
		h.o.Store.Link(c.repo, d)
	}
	return r, err
}

// check asks the upstream whether the repository has the blob.
func (h *Handler) check(c *call, d v1.Hash) error {
	_, err := fly(&h.flights, "check "+c.repo.String()+"@"+d.String(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.reg.CheckBlob(ctx, c.repo.Name, d)
	}).land(c.Context())
	return err
}

// blobHead answers without a body: a HEAD, or a GET of what the client has
// already. It starts no fill. done is false for a GET that has to go on.
func (h *Handler) blobHead(w *response, c *call) (done bool, err error) {
	d := c.route.Digest
	etag := `"` + d.String() + `"`
	if c.Method != http.MethodHead && !matchesTag(c.Header.Get("If-None-Match"), etag) {
		return false, nil
	}
	size, result, err := h.sizeOf(c, d)
	if err != nil {
		return false, err
	}
	w.Header().Set("X-Cache", result)
	return true, send(w, c, content{digest: d, mediaType: octetStream, size: size})
}

// sizeOf returns a blob's size from here, else from the upstream.
func (h *Handler) sizeOf(c *call, d v1.Hash) (size int64, result string, err error) {
	size, state := h.o.Store.State(d)
	if _, linked := h.o.Store.Linked(c.repo, d); linked && size >= 0 {
		return size, map[cache.State]string{cache.Here: hit, cache.Filling: filling}[state], nil
	}
	asked, err := fly(&h.flights, "head "+c.repo.String()+"@"+d.String(), func(ctx context.Context) (int64, error) {
		return c.reg.HeadBlob(ctx, c.repo.Name, d)
	}).land(c.Context())
	if err != nil {
		return 0, "", err
	}
	h.o.Store.Link(c.repo, d)
	if size < 0 {
		size = asked
	}
	return size, miss, nil
}
