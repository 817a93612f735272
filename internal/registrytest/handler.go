package registrytest

import (
	"net/http"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// target is what a request is about.
type target struct{ kind, repo, ref string }

// reply is an answer as data: faults change it before it is sent.
type reply struct {
	status int
	header http.Header
	body   section
}

// Handler is the registry's port without its listener, for servers of one's
// own. Faults that break connections and pacing per connection need the
// listener; a cut ends such a request by [http.ErrAbortHandler].
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveRegistry) }

func (s *Server) serveRegistry(w http.ResponseWriter, r *http.Request) {
	t := parseTarget(r.URL.Path)
	e := s.counters.begin(r, t)
	defer s.counters.end(e)
	rep, refused := s.refuse(r, t)
	var f met
	if !refused || t.kind == KindPing {
		f = s.faults.pick(&e.Request)
	}
	if !refused {
		rep = s.answer(f.request(r), t)
	}
	f.apply(&rep, t, s.challenge(r, t, ""))
	s.send(w, r, rep, f, e)
}

// request is what the registry makes of a request under the fault.
func (f *Fault) request(r *http.Request) *http.Request {
	if !f.IgnoreRange {
		return r
	}
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	return r
}

// parseTarget reads a path as the distribution specification lays it out.
func parseTarget(path string) target {
	if path == "/token" {
		return target{kind: KindToken}
	}
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok || (rest != "" && rest[0] != '/') {
		return target{}
	}
	rest = strings.TrimPrefix(rest, "/")
	if rest == "" {
		return target{kind: KindPing}
	}
	if repo, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return target{kind: KindTags, repo: repo}
	}
	dir, ref, _ := cutLast(rest, "/")
	repo, verb, ok := cutLast(dir, "/")
	if !ok {
		return target{}
	}
	switch verb {
	case "manifests":
		return target{KindManifest, repo, ref}
	case "blobs":
		return target{KindBlob, repo, ref}
	case "referrers":
		return target{KindReferrers, repo, ref}
	}
	return target{}
}

// cutLast is [strings.Cut] at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// answer is the true answer to a request that may be answered.
func (s *Server) answer(r *http.Request, t target) reply {
	if t.kind == KindToken {
		return s.answerToken(r)
	}
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return ociError(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry can only be pulled from")
	case r.Method == http.MethodHead && s.options.NoHead && t.kind != KindPing:
		return ociError(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry knows no HEAD")
	case t.repo != strings.ToLower(t.repo):
		return ociError(http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
	}
	switch t.kind {
	case KindPing:
		return jsonReply([]byte("{}"))
	case KindManifest:
		return s.answerManifest(r, t)
	case KindBlob:
		return s.answerBlob(r, t)
	case KindTags:
		return s.answerTags(r, t)
	case KindReferrers:
		return s.answerReferrers(r, t)
	}
	return reply{status: http.StatusNotFound, header: textHeader(), body: bytesSection([]byte("404 page not found\n"))}
}

func (s *Server) answerManifest(r *http.Request, t target) reply {
	if strings.Contains(t.ref, ":") {
		if _, err := v1.NewHash(t.ref); err != nil {
			return ociError(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		}
	}
	m, ok := s.content.manifest(t.repo, t.ref)
	if !ok {
		return ociError(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
	}
	header := http.Header{"Content-Type": {m.mediaType}, "Etag": {strconv.Quote(m.digest)}}
	s.setDigest(header, m.digest)
	if notModified(r, m.digest) {
		return reply{status: http.StatusNotModified, header: header}
	}
	return reply{status: http.StatusOK, header: header, body: bytesSection(m.raw)}
}

func (s *Server) setDigest(header http.Header, digest string) {
	if !s.options.NoContentDigest {
		header.Set("Docker-Content-Digest", digest)
	}
}

// notModified reports whether the client holds what has the quoted digest as its ETag.
func notModified(r *http.Request, digest string) bool {
	for _, tag := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == "*" || tag == strconv.Quote(digest) {
			return true
		}
	}
	return false
}

// ociError is an error in the distribution specification's form ("Error Codes").
func ociError(status int, code, message string) reply {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	rep := jsonReply(mustJSON(struct {
		Errors []one `json:"errors"`
	}{[]one{{code, message}}}))
	rep.status = status
	return rep
}

// unknownCode is the code for what isn't there.
func unknownCode(kind string) string {
	switch kind {
	case KindManifest:
		return "MANIFEST_UNKNOWN"
	case KindBlob:
		return "BLOB_UNKNOWN"
	}
	return "NAME_UNKNOWN"
}

func jsonReply(body []byte) reply {
	return reply{
		status: http.StatusOK,
		header: http.Header{"Content-Type": {"application/json"}},
		body:   bytesSection(body),
	}
}

func textHeader() http.Header { return http.Header{"Content-Type": {"text/plain; charset=utf-8"}} }
