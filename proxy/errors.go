package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/internal/fault"
)

// Codes of the OCI distribution specification, and one of ours for what may help itself.
const (
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeDenied          = "DENIED"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeTooManyRequests = "TOOMANYREQUESTS"
	codeUnsupported     = "UNSUPPORTED"
	codeUnavailable     = "UNAVAILABLE"
	codeRange           = "SIZE_INVALID"
)

// statusGone is what the log says of a client that left before its answer.
const statusGone = 499

// retryAfter is what a client is told when the upstream has not said when to ask again.
const retryAfter = 5 * time.Second

// An apiError is an answer that is not the one asked for.
type apiError struct {
	status     int
	code       string
	message    string
	retryAfter time.Duration
	size       int64 // of the blob, with 416; -1 if it is not known
	err        error // what led to it, for the log
}

func (e *apiError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return e.message
}

func (e *apiError) Unwrap() error { return e.err }

// Answer is the status and the code that a client is given.
func (e *apiError) Answer() (status int, code string) { return e.status, e.code }

func answer(status int, code, message string) *apiError {
	return &apiError{status: status, code: code, message: message, size: -1}
}

// answerFor is the status table (docs/status.md): what a client of rt is told about err.
func answerFor(rt Route, err error) *apiError {
	var api *apiError
	switch {
	case errors.As(err, &api):
		return api
	case errors.Is(err, cache.ErrDamaged):
		api = answer(http.StatusServiceUnavailable, codeUnavailable,
			fmt.Sprintf("upstream %s sent content that does not match its digest, more than once; it is asked again in a minute", rt.Upstream))
		api.retryAfter = time.Minute
	default:
		api = upstreamAnswer(rt, err)
	}
	api.err = err
	return api
}

// upstreamAnswer is the part of the table about what an upstream did.
func upstreamAnswer(rt Route, err error) *apiError {
	f, ok := fault.As(err)
	if !ok {
		f = &fault.Error{Kind: fault.Unavailable, Upstream: rt.Upstream, Message: "it did not answer in time", Err: err}
		if !errors.Is(err, context.DeadlineExceeded) {
			f.Message = "it could not be asked"
		}
	}
	message := printable(f.Error())
	var api *apiError
	switch f.Kind {
	case fault.NotFound:
		api = answer(http.StatusNotFound, unknownCode(rt, f), message)
	case fault.Denied:
		api = answer(http.StatusForbidden, codeDenied, message)
	case fault.Refused:
		api = answer(http.StatusForbidden, codeDenied, message)
	case fault.Unsupported:
		api = answer(http.StatusNotFound, codeUnsupported, message)
	case fault.Throttled:
		api = answer(http.StatusTooManyRequests, codeTooManyRequests, message)
		api.retryAfter = max(f.RetryAfter, time.Second)
	default:
		api = answer(http.StatusServiceUnavailable, codeUnavailable, message)
		api.retryAfter = max(f.RetryAfter, retryAfter)
	}
	return api
}

// unknownCode says what is not there: the repository, if the upstream said so, else what was asked for.
func unknownCode(rt Route, f *fault.Error) string {
	switch {
	case rt.Kind == Tags || f.Code == codeNameUnknown:
		return codeNameUnknown
	case rt.Kind == Blob:
		return codeBlobUnknown
	default:
		return codeManifestUnknown
	}
}

// write sends the error as the specification wants it.
func (e *apiError) write(w http.ResponseWriter, r *http.Request, upstream, id string) {
	type item struct {
		Code    string            `json:"code"`
		Message string            `json:"message"`
		Detail  map[string]string `json:"detail,omitempty"`
	}
	detail := map[string]string{"requestId": id}
	if upstream != "" {
		detail["upstream"] = upstream
	}
	body, err := json.Marshal(map[string][]item{"errors": {{e.code, e.message, detail}}})
	if err != nil { // strings always marshal
		body = []byte("{}")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD")
	}
	if e.status == http.StatusRequestedRangeNotSatisfiable && e.size >= 0 {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", e.size))
	}
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that has gone needs no answer
	}
}
