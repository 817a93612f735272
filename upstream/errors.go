package upstream

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxErrorBody  = 64 << 10
	maxMessage    = 200
	maxRetryAfter = 24 * time.Hour
)

var (
	errPatience = errors.New("no answer in time")
	errHeaders  = errors.New("no headers in time")
	errStall    = errors.New("no byte in time")
	errClosed   = errors.New("client is closed")
)

// fail builds a fault of this upstream.
func (c *Client) fail(kind fault.Kind, op, format string, args ...any) *fault.Error {
	return &fault.Error{Kind: kind, Upstream: c.o.Name, Op: op, Message: fmt.Sprintf(format, args...)}
}

// wireError says what a failure below HTTP means. caller is the context of whoever asked:
// when it has ended, that is the whole story.
func (c *Client) wireError(caller context.Context, op string, cause, err error) error {
	if caller.Err() != nil {
		return c.gone(caller, op)
	}
	if fe, ok := fault.As(err); ok {
		return fe
	}
	var ae *addressError
	if errors.As(err, &ae) {
		return c.fail(fault.Refused, op, "%s", ae.Error())
	}
	f := &fault.Error{Kind: fault.Unavailable, Upstream: c.o.Name, Op: op, Err: err}
	var ce *tls.CertificateVerificationError
	switch {
	case errors.Is(cause, errPatience):
		f.Message, f.Err = fmt.Sprintf("no answer within %v", c.o.Timeouts.Patience), nil
	case errors.Is(cause, errHeaders):
		f.Message, f.Err = fmt.Sprintf("no answer to a request within %v", c.headerLimit()), nil
	case errors.Is(cause, errStall):
		f.Message, f.Err = fmt.Sprintf("stalled: no byte came for %v", c.o.Timeouts.Stall), nil
	case errors.Is(cause, errClosed):
		f.Message, f.Err = "this client has been closed", nil
	case errors.As(err, &ce):
		f.Message = "its certificate is not trusted: set tls.caFile for this upstream if it has a CA of its own"
	}
	return f
}

// gone wraps the end of the caller's own context.
func (c *Client) gone(caller context.Context, op string) error {
	return fmt.Errorf("upstream %s: %s: %w", c.o.Name, op, caller.Err())
}

// ociErrors is the error body of the distribution spec.
type ociErrors struct {
	Errors []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"errors"`
}

// statusError turns an answer that is no success into a fault, and closes its body. own: the
// answer is the registry's (or its token service's). What a storage host says is not repeated:
// S3 puts signed requests into its error pages.
func (c *Client) statusError(op string, resp *http.Response, own, signedIn bool) *fault.Error {
	f := &fault.Error{Upstream: c.o.Name, Op: op, Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	if own && resp.Body != nil {
		var body ociErrors
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // a cut body still has its status
		if json.Unmarshal(raw, &body) == nil && len(body.Errors) > 0 {
			f.Code, f.Message = code(body.Errors[0].Code), printable(body.Errors[0].Message)
		}
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	f.Kind = kindOf(resp.StatusCode, f.Code)
	advise(f, own, signedIn)
	return f
}

func kindOf(status int, code string) fault.Kind {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusUnavailableForLegalReasons, http.StatusProxyAuthRequired:
		return fault.Denied
	case http.StatusNotFound, http.StatusGone:
		return fault.NotFound
	case http.StatusTooManyRequests:
		return fault.Throttled
	case http.StatusLoopDetected:
		return fault.Refused
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return fault.Unavailable
	case http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusRequestedRangeNotSatisfiable:
		return fault.Unsupported
	}
	if status >= 500 {
		return fault.Unavailable
	}
	switch code {
	case "NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_INVALID", "TAG_INVALID", "DIGEST_INVALID", "MANIFEST_INVALID":
		return fault.NotFound
	case "TOOMANYREQUESTS":
		return fault.Throttled
	case "UNSUPPORTED":
		return fault.Unsupported
	}
	if status < 400 {
		return fault.Damaged
	}
	return fault.Denied
}

// advise adds what an operator can do about f.
func advise(f *fault.Error, own, signedIn bool) {
	hint := ""
	switch {
	case f.Kind == fault.Denied && !own:
		hint = "the storage host to which the registry redirects refused the address"
	case f.Kind == fault.Denied && f.Status != http.StatusUnauthorized && f.Status != http.StatusForbidden:
		hint = "the upstream refuses this request"
	case f.Kind == fault.Denied && signedIn:
		hint = "the credentials for this upstream were refused, or may not pull this repository: check them"
	case f.Kind == fault.Denied:
		hint = "not there, or not public: set credentials for this upstream"
	case f.Kind == fault.Throttled && !signedIn:
		hint = "too many requests: wait, or set credentials for this upstream to raise its limit"
	case f.Kind == fault.Throttled:
		hint = "too many requests: wait"
	case f.Kind == fault.Damaged:
		hint = "an answer that fits no request of ours"
	}
	switch {
	case f.Message == "":
		f.Message = hint
	case hint != "":
		f.Message += " (" + hint + ")"
	}
}

// code lets through what looks like an OCI error code.
func code(s string) string {
	for _, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return ""
		}
	}
	if len(s) > 64 {
		return ""
	}
	return s
}

// printable cuts what a stranger wrote to something fit for a log line: printable, short,
// and without the queries of addresses, which may be signed.
func printable(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		if strings.Contains(w, "://") {
			words[i], _, _ = strings.Cut(w, "?")
		}
	}
	var b strings.Builder
	n := 0
	for _, r := range strings.Join(words, " ") {
		if !unicode.IsPrint(r) {
			r = '.'
		}
		if n++; n > maxMessage {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// retryAfter reads Retry-After (RFC 9110, 10.2.3): seconds or a date; 0 if there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseInt(v, 10, 64); err == nil {
		if s > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return max(0, time.Duration(s)*time.Second)
	}
	t, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(0, t.Sub(now)), maxRetryAfter)
}
