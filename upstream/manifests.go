package upstream

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/internal/fault"
)

// maxManifest is above any manifest seen (3.7 MB) and what the spec asks registries to take (4 MiB).
const maxManifest = 16 << 20

// acceptManifests names all that we can store. Order is preference: registries convert only
// to what comes later, and a signed schema 1 is the last resort.
var acceptManifests = strings.Join([]string{
	string(types.OCIImageIndex),
	string(types.DockerManifestList),
	string(types.OCIManifestSchema1),
	string(types.DockerManifestSchema2),
	"application/vnd.oci.artifact.manifest.v1+json",
	string(types.DockerManifestSchema1Signed),
	"*/*",
}, ", ")

func manifestRequest(method, repo, ref string) *request {
	return &request{kind: "manifest", method: method, repo: repo, tail: "manifests/" + ref, accept: acceptManifests}
}

// HeadManifest asks what a tag or digest ("alg:hex") points to. The digest is the zero Hash, the
// size -1 and the type empty where the upstream doesn't say.
func (c *Client) HeadManifest(ctx context.Context, repo, ref string) (v1.Descriptor, error) {
	r := manifestRequest(http.MethodHead, repo, ref)
	if err := c.checkNames(r, ref); err != nil {
		return v1.Descriptor{}, err
	}
	s := c.begin(ctx)
	defer s.end()
	a, err := persist(c, s, func(ep *endpoint) (*answer, error) { return c.exchange(s, ep, r, nil) })
	if f, ok := fault.As(err); ok && (f.Status == http.StatusMethodNotAllowed || f.Status == http.StatusNotImplemented) {
		desc, _, err := c.GetManifest(ctx, repo, ref)
		return desc, err
	}
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer a.Body.Close()
	return v1.Descriptor{MediaType: mediaType(a.Header), Size: a.ContentLength, Digest: statedDigest(a.Header, ref)}, nil
}

// statedDigest is the digest of what an answer is about: the one asked for, else the one that the header names.
func statedDigest(h http.Header, ref string) v1.Hash {
	if d, err := v1.NewHash(ref); err == nil {
		return d
	}
	d, err := v1.NewHash(h.Get("Docker-Content-Digest"))
	if err != nil {
		return v1.Hash{} // none, or of an algorithm that we can't check
	}
	return d
}

// mediaType is the Content-Type without its parameters.
func mediaType(h http.Header) types.MediaType {
	v := h.Get("Content-Type")
	t, _, err := mime.ParseMediaType(v)
	if err != nil {
		t, _, _ = strings.Cut(v, ";")
		t = strings.ToLower(strings.TrimSpace(t))
	}
	return types.MediaType(t)
}

// GetManifest returns a manifest of at most 16 MiB, verified: against ref if that is a digest (sha256, sha512),
// else against the digest that the upstream states. Where it states none, the sha256 is computed.
func (c *Client) GetManifest(ctx context.Context, repo, ref string) (v1.Descriptor, []byte, error) {
	r := manifestRequest(http.MethodGet, repo, ref)
	if err := c.checkNames(r, ref); err != nil {
		return v1.Descriptor{}, nil, err
	}
	s := c.begin(ctx)
	defer s.end()
	type result struct {
		desc v1.Descriptor
		raw  []byte
	}
	out, err := persist(c, s, func(ep *endpoint) (out result, err error) {
		a, err := c.exchange(s, ep, r, nil)
		if err != nil {
			return out, err
		}
		defer a.Body.Close()
		if out.raw, err = c.readAll(a, r, maxManifest); err != nil {
			return out, err
		}
		out.desc, err = c.verify(a, r, ref, out.raw)
		return out, err
	})
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	return out.desc, out.raw, nil
}

// readAll reads at most limit bytes; more is Damaged.
func (c *Client) readAll(a *answer, r *request, limit int64) ([]byte, error) {
	if a.ContentLength > limit {
		return nil, c.tooLong(a, r, limit)
	}
	raw, err := io.ReadAll(io.LimitReader(a.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, c.tooLong(a, r, limit)
	}
	return raw, nil
}

func (c *Client) tooLong(a *answer, r *request, limit int64) error {
	f := c.fail(fault.Damaged, r.op(), "the answer is longer than %d MiB, the most that is accepted", limit>>20)
	f.Status = a.StatusCode
	return f
}

// verify compares raw with its digest and describes it.
func (c *Client) verify(a *answer, r *request, ref string, raw []byte) (v1.Descriptor, error) {
	want := statedDigest(a.Header, ref)
	alg := want.Algorithm
	if alg == "" {
		alg = "sha256"
	}
	got, err := digestOf(alg, raw)
	if err != nil || want != (v1.Hash{}) && got != want {
		f := c.fail(fault.Damaged, r.op(), "the manifest that came has digest %s instead of %s", got, want)
		f.Status = a.StatusCode
		return v1.Descriptor{}, f
	}
	return v1.Descriptor{MediaType: typeOf(a.Header, raw), Size: int64(len(raw)), Digest: got}, nil
}

// typeOf believes a Content-Type that says something, else the manifest itself.
func typeOf(h http.Header, raw []byte) types.MediaType {
	t := mediaType(h)
	switch t {
	case "", "application/json", "application/octet-stream", "text/plain":
	default:
		return t
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Signatures    json.RawMessage `json:"signatures"`
	}
	err := json.Unmarshal(raw, &m)
	switch {
	case err != nil:
		return t
	case m.MediaType != "":
		return m.MediaType
	case m.SchemaVersion == 2 && m.Manifests != nil && m.Config == nil:
		return types.OCIImageIndex // OCI leaves mediaType out, Docker doesn't
	case m.SchemaVersion == 2 && m.Config != nil && m.Manifests == nil:
		return types.OCIManifestSchema1
	case m.SchemaVersion == 1 && m.Signatures != nil:
		return types.DockerManifestSchema1Signed
	}
	return t
}

func digestOf(alg string, raw []byte) (v1.Hash, error) {
	h, err := v1.Hasher(alg)
	if err != nil {
		return v1.Hash{}, err
	}
	h.Write(raw)
	return v1.NewHash(alg + ":" + hexOf(h.Sum(nil)))
}
