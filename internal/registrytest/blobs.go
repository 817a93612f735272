package registrytest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func (s *Server) answerBlob(r *http.Request, t target) reply {
	if _, err := v1.NewHash(t.ref); err != nil {
		return ociError(http.StatusBadRequest, "DIGEST_INVALID", err.Error())
	}
	blob, ok := s.content.blob(t.repo, t.ref)
	if !ok {
		return ociError(http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
	}
	if s.storage != nil {
		return reply{status: http.StatusTemporaryRedirect, header: http.Header{"Location": {s.sign(r, t)}}}
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}, "Etag": {strconv.Quote(t.ref)}}
	s.setDigest(header, t.ref)
	if notModified(r, t.ref) {
		return reply{status: http.StatusNotModified, header: header}
	}
	return s.ranged(r, blob, header)
}

// ranged answers with all of a blob, or with the one range that is asked for.
// Several ranges at once get all of it, which RFC 9110 section 14.2 allows.
func (s *Server) ranged(r *http.Request, blob section, header http.Header) reply {
	whole := reply{status: http.StatusOK, header: header, body: blob}
	if s.options.NoRanges {
		return whole
	}
	header.Set("Accept-Ranges", "bytes")
	if cond := r.Header.Get("If-Range"); cond != "" && cond != header.Get("Etag") {
		return whole
	}
	off, n, want := parseRange(r.Header.Get("Range"), blob.size)
	switch {
	case !want:
		return whole
	case n == 0:
		rep := ociError(http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "the range is not within the blob")
		rep.header.Set("Content-Range", fmt.Sprintf("bytes */%d", blob.size))
		return rep
	}
	header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, blob.size))
	return reply{status: http.StatusPartialContent, header: header, body: blob.from(off, n)}
}

// parseRange reads a Range header with one range (RFC 9110 section 14.1.2).
// want is false where it is to be ignored, n is 0 where it can't be satisfied.
// A range that ends before it starts counts as the latter, as distribution has it.
func parseRange(header string, size int64) (off, n int64, want bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !dash {
		return 0, 0, false
	}
	if first == "" {
		suffix, err := strconv.ParseUint(last, 10, 63)
		n = min(int64(suffix), size)
		return size - n, n, err == nil
	}
	start, err := strconv.ParseUint(first, 10, 63)
	if err != nil {
		return 0, 0, false
	}
	end := uint64(size) - 1
	if last != "" {
		if end, err = strconv.ParseUint(last, 10, 63); err != nil {
			return 0, 0, false
		}
	}
	off = int64(start)
	if off >= size || end < start {
		return 0, 0, true
	}
	return off, min(int64(end), size-1) - off + 1, true
}

// sign returns an address at the storage port for the request's method, as S3
// and its like do it.
func (s *Server) sign(r *http.Request, t target) string {
	var until int64
	if s.options.AddressLife > 0 {
		until = time.Now().Add(s.options.AddressLife).UnixNano()
	}
	base := s.StorageURL()
	if host, _, err := net.SplitHostPort(r.Host); err == nil && s.registry.anywhere() {
		base = s.scheme() + "://" + net.JoinHostPort(host, s.storage.number())
	}
	path := "/" + t.repo + "/" + t.ref
	expires := strconv.FormatInt(until, 10)
	return base + path + "?" + url.Values{"expires": {expires}, "sig": {s.signature(r.Method, path, expires)}}.Encode()
}

func (s *Server) signature(method, path, expires string) string {
	mac := hmac.New(sha256.New, s.key[:])
	fmt.Fprintf(mac, "%s\n%s\n%s", method, path, expires)
	return hex.EncodeToString(mac.Sum(nil))
}

func (s *Server) serveStorage(w http.ResponseWriter, r *http.Request) {
	repo, digest, _ := cutLast(strings.TrimPrefix(r.URL.Path, "/"), "/")
	t := target{KindStorage, repo, digest}
	e := s.counters.begin(r, t)
	defer s.counters.end(e)
	f := s.faults.pick(&e.Request)
	rep := s.answerStorage(f.request(r), t)
	f.apply(&rep, t, "")
	s.send(w, r, rep, f, e)
}

func (s *Server) answerStorage(r *http.Request, t target) reply {
	query := r.URL.Query()
	expires := query.Get("expires")
	until, err := strconv.ParseInt(expires, 10, 64)
	switch {
	case r.Header.Get("Authorization") != "":
		return storageError(http.StatusBadRequest, "InvalidArgument", "Only one auth mechanism allowed")
	case err != nil || !hmac.Equal([]byte(query.Get("sig")), []byte(s.signature(r.Method, r.URL.Path, expires))):
		return storageError(http.StatusForbidden, "SignatureDoesNotMatch", "The signature is not that of this method and path")
	case until != 0 && time.Now().UnixNano() > until:
		return storageError(http.StatusForbidden, "AccessDenied", "Request has expired")
	}
	blob, ok := s.content.blob(t.repo, t.ref)
	if !ok {
		return storageError(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	}
	// Storage knows nothing of digests: its ETag is one of its own.
	return s.ranged(r, blob, http.Header{
		"Content-Type": {"application/octet-stream"},
		"Etag":         {strconv.Quote(s.signature("etag", t.ref, "")[:32])},
	})
}

// storageError is an error in the form of S3.
func storageError(status int, code, message string) reply {
	body := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>`+"\n<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
	return reply{status: status, header: http.Header{"Content-Type": {"application/xml"}}, body: bytesSection([]byte(body))}
}
