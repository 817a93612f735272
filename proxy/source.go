package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/internal/fault"
)

// source is a repository of an upstream as a fill sees it.
type source struct {
	blobs Blobs
	repo  cache.Repo
}

// Key implements cache.Source.
func (s source) Key() string { return s.repo.String() }

// Get implements cache.Source.
func (s source) Get(ctx context.Context, d v1.Hash, off, n int64) (cache.Part, error) {
	resp, err := s.blobs.GetBlob(ctx, s.repo.Name, d, off, n)
	if err != nil {
		return cache.Part{}, sourceError(err)
	}
	part, err := partOf(resp)
	if err != nil {
		return cache.Part{}, &fault.Error{
			Kind: fault.Damaged, Upstream: s.repo.Upstream, Op: "GET " + s.repo.Name + "/blobs/" + d.String(), Status: resp.StatusCode,
			Err: errors.Join(err, resp.Body.Close()),
		}
	}
	return part, nil
}

// partOf reads the headers of a good answer.
func partOf(resp *http.Response) (cache.Part, error) {
	part := cache.Part{Body: resp.Body, Len: resp.ContentLength, Total: resp.ContentLength}
	if resp.StatusCode != http.StatusPartialContent {
		return part, nil
	}
	first, last, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
	if !ok {
		return part, errors.New("its Content-Range can't be understood")
	}
	n := last - first + 1
	if part.Len >= 0 && part.Len != n {
		return part, fmt.Errorf("its Content-Range is about %d bytes, its Content-Length says %d", n, part.Len)
	}
	part.Off, part.Len, part.Total = first, n, total
	return part, nil
}

// parseContentRange reads "bytes first-last/total" (RFC 9110, section 14.4); total is -1 for *.
func parseContentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(s, "/")
	from, to, ok3 := strings.Cut(span, "-")
	first, ok4 := parseCount(from)
	last, ok5 := parseCount(to)
	if !ok || !ok2 || !ok3 || !ok4 || !ok5 || first > last {
		return 0, 0, 0, false
	}
	if size == "*" {
		return first, last, -1, true
	}
	total, err := strconv.ParseInt(size, 10, 63)
	return first, last, total, err == nil && last < total
}

// sourceError tells the fill how to go on after an upstream's failure.
func sourceError(err error) error {
	f, ok := fault.As(err)
	if !ok {
		return err
	}
	se := &cache.SourceError{Err: err, RetryAfter: f.RetryAfter}
	if f.Status == http.StatusRequestedRangeNotSatisfiable {
		se.BeyondEnd = true
		return se
	}
	switch f.Kind {
	case fault.NotFound, fault.Denied, fault.Refused, fault.Unsupported:
		se.Final = true
	case fault.Throttled:
		se.Throttled = true
	case fault.Busy:
		se.Busy = true
	}
	return se
}
