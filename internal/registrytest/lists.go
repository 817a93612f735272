package registrytest

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// answerTags lists tags in lexical order, after "last", at most "n" of them.
func (s *Server) answerTags(r *http.Request, t target) reply {
	tags, ok := s.content.tags(t.repo)
	if !ok {
		return ociError(http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
	}
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(tags, last)
		if found {
			i++
		}
		tags = tags[i:]
	}
	n, ok := s.pageSize(query)
	if !ok {
		return ociError(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be a whole number from 0 on")
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if n >= 0 && len(tags) > n {
		tags = tags[:n]
		if n > 0 {
			setNext(header, r.URL, n, tags[n-1])
		}
	}
	if tags == nil {
		tags = []string{}
	}
	return reply{status: http.StatusOK, header: header, body: bytesSection(mustJSON(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{t.repo, tags}))}
}

// pageSize is how many entries fit into one answer, -1 for all; false when the
// client's n is no number from 0 on.
func (s *Server) pageSize(query url.Values) (int, bool) {
	page := -1
	if s.options.Page > 0 {
		page = s.options.Page
	}
	if !query.Has("n") {
		return page, true
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return 0, false
	}
	if page > 0 {
		n = min(n, page)
	}
	return n, true
}

// setNext points at the next page (RFC 8288), keeping the other parameters.
func setNext(header http.Header, u *url.URL, n int, last string) {
	query := u.Query()
	query.Set("n", strconv.Itoa(n))
	query.Set("last", last)
	next := url.URL{Path: u.Path, RawQuery: query.Encode()}
	header.Set("Link", "<"+next.String()+`>; rel="next"`)
}

// answerReferrers lists the manifests whose subject is the digest, there or not.
func (s *Server) answerReferrers(r *http.Request, t target) reply {
	if s.options.NoReferrers {
		return reply{status: http.StatusNotFound, header: textHeader(), body: bytesSection([]byte("404 page not found\n"))}
	}
	if _, err := v1.NewHash(t.ref); err != nil {
		return ociError(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
	}
	header := http.Header{"Content-Type": {string(types.OCIImageIndex)}}
	query := r.URL.Query()
	only := query.Get("artifactType")
	if only != "" {
		header.Set("OCI-Filters-Applied", "artifactType")
	}
	found := []descriptor{}
	for _, m := range s.content.referrers(t.repo, t.ref) {
		about := subjectOf(m.raw)
		if only == "" || about.artifactType() == only {
			found = append(found, descriptor{m.mediaType, m.digest, int64(len(m.raw)), about.artifactType(), about.Annotations})
		}
	}
	if i := slices.IndexFunc(found, func(d descriptor) bool { return d.Digest == query.Get("last") }); i >= 0 {
		found = found[i+1:]
	}
	if n, ok := s.pageSize(query); ok && n > 0 && len(found) > n {
		found = found[:n]
		setNext(header, r.URL, n, found[n-1].Digest)
	}
	return reply{status: http.StatusOK, header: header, body: bytesSection(mustJSON(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, string(types.OCIImageIndex), found}))}
}

// descriptor is a referrer as the API lists it. Digests stay text: the
// registry passes on algorithms that it doesn't know.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}
