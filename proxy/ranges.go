package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/entrepot/entrepot/cache"
)

// maxRanges bounds the parts of one answer (RFC 9110, section 14.2, on egregious requests).
const maxRanges = 64

// A byteRange is one range as it was asked for, before the size is known.
type byteRange struct {
	off int64 // < 0: the last -off bytes
	end int64 // exclusive, -1: to the end
}

var errRangeSyntax = &apiError{status: http.StatusRequestedRangeNotSatisfiable, code: codeRange, size: -1, message: "the Range header can't be understood: bytes=first-last, bytes=first- or bytes=-count"}

// parseRange reads a Range header (RFC 9110, section 14.1.2). No ranges means
// the whole: there is no header, or one with a unit that we don't know.
func parseRange(header string) ([]byteRange, error) {
	unit, set, ok := strings.Cut(header, "=")
	if header == "" || ok && !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return nil, nil
	}
	if !ok {
		return nil, errRangeSyntax
	}
	var all []byteRange
	for spec := range strings.SplitSeq(set, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue
		}
		r, ok := parseSpec(spec)
		if !ok || len(all) == maxRanges {
			return nil, errRangeSyntax
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errRangeSyntax
	}
	return all, nil
}

func parseSpec(spec string) (byteRange, bool) {
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return byteRange{}, false
	}
	if first == "" {
		n, ok := parseCount(last)
		return byteRange{off: -n, end: -1}, ok && n > 0
	}
	off, ok := parseCount(first)
	if !ok {
		return byteRange{}, false
	}
	if last == "" {
		return byteRange{off, -1}, true
	}
	end, ok := parseCount(last)
	return byteRange{off, end + 1}, ok && off <= end
}

// parseCount takes digits only, and leaves room to add one.
func parseCount(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 63)
	return n, err == nil
}

// ask is what the store is told before the size is known.
func (r byteRange) ask() (off, n int64) {
	if r.end < 0 {
		return r.off, -1
	}
	return r.off, r.end - r.off
}

// A section is a part of a blob to be sent. Its n is -1 where it reaches to the
// end and so is verified before its last byte (cache.Reader.CopyRange).
type section struct {
	cache.Span
	open bool
}

func (s section) n() int64 {
	if s.open {
		return -1
	}
	return s.Len()
}

// sections clips ranges to a blob of size bytes and leaves out those beyond it.
// A range over the whole blob is sent as the whole is: verified.
func sections(ranges []byteRange, size int64) []section {
	var all []section
	for _, r := range ranges {
		s := section{Span: cache.Span{Off: r.off, End: size}, open: r.off >= 0 && r.end < 0}
		if r.off < 0 {
			s.Off = max(0, size+r.off)
		}
		if r.end >= 0 {
			s.End = min(size, r.end)
		}
		s.open = s.open || s.Off == 0 && s.End == size
		if s.Off < s.End {
			all = append(all, s)
		}
	}
	return all
}
