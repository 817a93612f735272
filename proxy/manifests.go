package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/internal/fault"
)

// What X-Cache says.
const (
	hit         = "HIT"         // from here, nobody asked
	filling     = "FILL"        // from a fill that others started
	miss        = "MISS"        // fetched for this request
	stale       = "STALE"       // from here, though the upstream could not confirm it
	revalidated = "REVALIDATED" // from here, confirmed by the upstream
)

// A found manifest is one to be served.
type found struct {
	digest    v1.Hash
	mediaType types.MediaType
	raw       []byte
	result    string        // X-Cache
	age       time.Duration // since it was last checked, of a stale one
}

func (h *Handler) manifest(w *response, c *call) error {
	var m found
	var err error
	if c.route.Tag != "" {
		m, err = h.byTag(c)
	} else {
		m, err = h.byDigest(c)
	}
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("X-Cache", m.result)
	if m.result == stale {
		head.Set("Warning", `110 - "Response is Stale"`)
		head.Set("Age", strconv.Itoa(int(m.age.Seconds())))
	}
	return send(w, c, content{
		digest: m.digest, mediaType: string(m.mediaType), size: int64(len(m.raw)), from: memory(m.raw),
	})
}

// byDigest answers from here if this repository has the digest as a manifest, else asks.
func (h *Handler) byDigest(c *call) (found, error) {
	d := c.route.Digest
	if m, ok := h.held(c.repo, d); ok {
		m.result = hit
		return m, nil
	}
	return fly(&h.flights, "manifest "+c.repo.String()+"@"+d.String(), func(ctx context.Context) (found, error) {
		if m, ok := h.held(c.repo, d); ok { // fetched while we were on our way
			m.result = hit
			return m, nil
		}
		return h.fetch(ctx, c, "", d.String())
	}).land(c.Context())
}

// held returns a manifest that the repository has and that is here.
func (h *Handler) held(r cache.Repo, d v1.Hash) (found, bool) {
	mt, ok := h.o.Store.ManifestType(r, d)
	if !ok {
		return found{}, false
	}
	raw, err := h.o.Store.Manifest(d)
	return found{digest: d, mediaType: mt, raw: raw}, err == nil
}

// fetch gets a manifest by ref and keeps it; tag, if not "", points to it from now on.
func (h *Handler) fetch(ctx context.Context, c *call, tag, ref string) (found, error) {
	desc, raw, err := c.reg.GetManifest(ctx, c.repo.Name, ref)
	if err != nil {
		return found{}, err
	}
	h.o.Store.PutManifest(cache.Manifest{Repo: c.repo, Tag: tag, Digest: desc.Digest, MediaType: desc.MediaType, Raw: raw})
	return found{digest: desc.Digest, mediaType: desc.MediaType, raw: raw, result: miss}, nil
}

// byTag asks the upstream where the tag points, and answers from here when
// that is not to be had.
func (h *Handler) byTag(c *call) (found, error) {
	tag := c.route.Tag
	old, age, have := h.known(c.repo, tag)
	if have && (age < c.policy.FreshFor || !c.policy.Moves(tag)) {
		old.result = hit
		return old, nil
	}
	asked := fly(&h.flights, "tag "+c.repo.String()+":"+tag, func(ctx context.Context) (found, error) { return h.refresh(ctx, c) })
	ctx := c.Context()
	usable := have && age < c.policy.StaleFor
	if usable {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.policy.WaitFresh)
		defer cancel()
	}
	m, err := asked.land(ctx)
	if err == nil || !usable || !masked(err) || c.Context().Err() != nil {
		return m, err
	}
	h.o.Metrics.Stale(c.upstream.Label(), cause(err))
	h.o.Log.Warn("a tag is served as it was last seen", "upstream", c.route.Upstream, "repository", c.repo.Name, "tag", tag, "age", age.Round(time.Second), "err", err)
	old.result, old.age = stale, age
	return old, nil
}

// known returns what is here of a tag, and how long ago that was checked.
func (h *Handler) known(r cache.Repo, tag string) (found, time.Duration, bool) {
	t, ok := h.o.Store.Tag(r, tag)
	if !ok {
		return found{}, 0, false
	}
	raw, err := h.o.Store.Manifest(t.Digest)
	return found{digest: t.Digest, mediaType: t.MediaType, raw: raw}, max(0, time.Since(t.Checked)), err == nil
}

// refresh asks where a tag points: by HEAD if something is here that it may
// still point to, else by GET. A client's HEAD asks no less, for its GET comes next.
func (h *Handler) refresh(ctx context.Context, c *call) (found, error) {
	tag := c.route.Tag
	ref := tag
	if _, _, have := h.known(c.repo, tag); have {
		desc, err := c.reg.HeadManifest(ctx, c.repo.Name, tag)
		if err != nil {
			return found{}, h.forget(c, err)
		}
		if m, ok := h.held(c.repo, desc.Digest); ok {
			h.o.Store.SetTag(c.repo, tag, m.digest, m.mediaType)
			m.result = revalidated
			return m, nil
		}
		if desc.Digest != (v1.Hash{}) {
			ref = desc.Digest.String()
		}
	}
	m, err := h.fetch(ctx, c, tag, ref)
	if fault.Is(err, fault.NotFound) && ref != tag { // moved on, or not there by digest
		m, err = h.fetch(ctx, c, tag, tag)
	}
	return m, h.forget(c, err)
}

// forget drops a tag of which the upstream says that it is not there.
func (h *Handler) forget(c *call, err error) error {
	if fault.Is(err, fault.NotFound) {
		h.o.Store.DropTag(c.repo, c.route.Tag)
	}
	return err
}

// masked reports whether a stale answer is better than this error: whether
// the upstream could not answer, rather than answered no.
func masked(err error) bool {
	f, ok := fault.As(err)
	return !ok || f.Temporary()
}

// cause names an error for the metric of stale answers.
func cause(err error) string {
	if f, ok := fault.As(err); ok {
		return f.Kind.String()
	}
	return "slow"
}

// memory is content that is held in memory, as send wants it.
func memory(raw []byte) func(w *response, off, n int64) error {
	return func(w *response, off, n int64) error {
		end := int64(len(raw))
		if n >= 0 {
			end = min(end, off+n)
		}
		if off > end {
			return fmt.Errorf("proxy: %w", fs.ErrInvalid)
		}
		_, err := w.Write(raw[off:end])
		if errors.Is(err, http.ErrBodyNotAllowed) {
			err = nil
		}
		return err
	}
}
