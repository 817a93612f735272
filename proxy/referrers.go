package proxy

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/internal/fault"
)

// referrers answers what refers to a digest (OCI distribution specification,
// "Listing Referrers"): as the upstream says by its API, or by the tag that
// stands in for it; while it can't be reached, from the manifests that are here.
func (h *Handler) referrers(w *response, c *call) error {
	all, err := fly(&h.flights, "referrers "+c.repo.String()+"@"+c.route.Digest.String(), func(ctx context.Context) ([]json.RawMessage, error) {
		return c.askReferrers(ctx)
	}).land(c.Context())
	result := miss
	if err != nil && masked(err) && c.Context().Err() == nil {
		here := h.referrersHere(c)
		if len(here) == 0 {
			return err
		}
		h.o.Metrics.Stale(c.upstream.Label(), cause(err))
		w.Header().Set("Warning", `110 - "Response is Stale"`)
		all, result, err = here, stale, nil
	}
	if err != nil {
		return err
	}
	if want := c.URL.Query().Get("artifactType"); want != "" {
		all = ofType(all, want)
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("X-Cache", result)
	body, err := json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     types.MediaType   `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}{2, types.OCIImageIndex, append([]json.RawMessage{}, all...)})
	if err != nil {
		return fmt.Errorf("proxy: list of referrers: %w", err)
	}
	return h.json(w, c, body, string(types.OCIImageIndex))
}

// askReferrers returns the descriptors as the upstream sent them.
func (c *call) askReferrers(ctx context.Context) ([]json.RawMessage, error) {
	d := c.route.Digest
	raw, err := c.reg.Referrers(ctx, c.repo.Name, d)
	if hasNoReferrersAPI(err) {
		_, raw, err = c.reg.GetManifest(ctx, c.repo.Name, d.Algorithm+"-"+d.Hex)
		if fault.Is(err, fault.NotFound) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, &fault.Error{Kind: fault.Damaged, Upstream: c.route.Upstream, Op: "GET " + c.repo.Name + "/referrers/" + d.String(), Message: "its list of referrers is no JSON", Err: err}
	}
	return index.Manifests, nil
}

// ofType keeps the descriptors with an artifact type.
func ofType(all []json.RawMessage, want string) []json.RawMessage {
	var kept []json.RawMessage
	for _, raw := range all {
		var d struct {
			ArtifactType string `json:"artifactType"`
		}
		if json.Unmarshal(raw, &d) == nil && d.ArtifactType == want {
			kept = append(kept, raw)
		}
	}
	return kept
}

// referrersHere returns the descriptors of the referrers that are here.
func (h *Handler) referrersHere(c *call) []json.RawMessage {
	all, err := h.o.Store.Referrers(c.repo, c.route.Digest)
	if err != nil {
		h.o.Log.Warn("the manifests of a repository can't be listed", "repository", c.repo.String(), "err", err)
	}
	var here []json.RawMessage
	for _, d := range all {
		if raw, err := json.Marshal(d); err == nil {
			here = append(here, raw)
		}
	}
	return here
}
