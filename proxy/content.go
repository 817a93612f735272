package proxy

import (
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache"
)

// content is something with a digest to be sent, whole or in parts.
type content struct {
	digest    v1.Hash
	mediaType string
	size      int64                                 // -1: not known before the end
	from      func(w *response, off, n int64) error // sends n bytes from off, n < 0: to the end
	want      func(parts ...cache.Span)             // says what will be asked of from; may be nil
}

// send answers a GET or HEAD of content: conditions, ranges, headers, body
// (RFC 9110, sections 13 and 14). The digest is the strong validator.
func send(w *response, c *call, x content) error {
	head := w.Header()
	etag := strconv.Quote(x.digest.String())
	head.Set("Docker-Content-Digest", x.digest.String())
	head.Set("ETag", etag)
	head.Set("Accept-Ranges", "bytes")
	if x.mediaType != "" {
		head.Set("Content-Type", x.mediaType)
	} else {
		head["Content-Type"] = nil // the upstream sent none, and net/http is not to guess
	}
	if matchesTag(c.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	var parts []section
	if c.Method == http.MethodGet { // a Range means nothing to a HEAD
		var err error
		if parts, err = partsFor(c, etag, x.size); err != nil {
			return err
		}
	}
	switch len(parts) {
	case 0:
		if x.size >= 0 {
			head.Set("Content-Length", strconv.FormatInt(x.size, 10))
		}
		w.WriteHeader(http.StatusOK)
		if c.Method == http.MethodHead || x.size == 0 {
			return nil
		}
		return x.body(w, 0, -1)
	case 1:
		s := parts[0]
		head.Set("Content-Range", contentRange(s, x.size))
		head.Set("Content-Length", strconv.FormatInt(s.Len(), 10))
		w.WriteHeader(http.StatusPartialContent)
		return x.body(w, s.Off, s.n())
	default:
		return x.multipart(w, parts)
	}
}

// body sends a section; from here on a failure cuts the connection.
func (x content) body(w *response, off, n int64) error {
	w.cut = true
	if err := x.from(w, off, n); err != nil {
		return err
	}
	w.cut = false
	return nil
}

// partsFor returns the sections that are asked for, none for the whole.
func partsFor(c *call, etag string, size int64) ([]section, error) {
	ranges, err := parseRange(c.Header.Get("Range"))
	if err != nil {
		e := *errRangeSyntax
		e.size = size
		return nil, &e
	}
	condition := c.Header.Get("If-Range")
	if len(ranges) == 0 || size < 0 || condition != "" && condition != etag {
		return nil, nil
	}
	parts := sections(ranges, size)
	if len(parts) == 0 {
		e := answer(http.StatusRequestedRangeNotSatisfiable, codeRange, fmt.Sprintf("the range begins beyond the end of the content, which has %d bytes", size))
		e.size = size
		return nil, e
	}
	var sum int64
	for _, s := range parts {
		sum += s.Len()
	}
	if len(parts) > 1 && sum > size { // overlapping: the whole is less
		return nil, nil
	}
	return parts, nil
}

// multipart sends several sections (RFC 9110, section 14.6).
func (x content) multipart(w *response, parts []section) error {
	mw := multipart.NewWriter(w)
	var length counter
	dry := multipart.NewWriter(&length)
	if err := dry.SetBoundary(mw.Boundary()); err != nil {
		return err
	}
	spans := make([]cache.Span, len(parts))
	for i, s := range parts {
		if _, err := dry.CreatePart(x.partHeader(s)); err != nil {
			return err
		}
		length += counter(s.Len())
		spans[i] = s.Span
	}
	if err := dry.Close(); err != nil {
		return err
	}
	if x.want != nil {
		x.want(spans...)
	}
	w.Header().Set("Content-Type", "multipart/byteranges; boundary="+mw.Boundary())
	w.Header().Set("Content-Length", strconv.FormatInt(int64(length), 10))
	w.WriteHeader(http.StatusPartialContent)
	for _, s := range parts {
		w.cut = true
		if _, err := mw.CreatePart(x.partHeader(s)); err != nil {
			return err
		}
		if err := x.body(w, s.Off, s.n()); err != nil {
			return err
		}
	}
	w.cut = true
	if err := mw.Close(); err != nil {
		return err
	}
	w.cut = false
	return nil
}

func (x content) partHeader(s section) textproto.MIMEHeader {
	return textproto.MIMEHeader{"Content-Type": {x.mediaType}, "Content-Range": {contentRange(s, x.size)}}
}

func contentRange(s section, size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.Off, s.End-1, size)
}

// counter is a writer that only counts.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// matchesTag is the weak comparison of If-None-Match (RFC 9110, section 13.1.2).
func matchesTag(header, etag string) bool {
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == etag || tag == "*" {
			return true
		}
	}
	return false
}
