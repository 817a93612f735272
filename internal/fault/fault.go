// Package fault holds the words in which the packages that talk to upstreams
// tell the packages that talk to clients what went wrong: one error type, one
// kind a row of the status table (docs/status.md).
package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is what a failure means for the client that waits for an answer.
type Kind uint8

const (
	// Unavailable: unreachable, slow, 5xx, or the credentials service is. Asking again later may help: 503.
	Unavailable Kind = iota
	// NotFound: the upstream says that the thing is not there: 404.
	NotFound
	// Denied: the upstream refused us or our credentials: 403, never 401.
	Denied
	// Refused: we will not connect there, whatever the upstream says (address rules, downgrades): 403.
	Refused
	// Throttled: the upstream asks us to slow down: 429 with Retry-After.
	Throttled
	// Damaged: what came is not what was asked for (digest, length, encoding): 503.
	Damaged
	// Unsupported: the upstream does not speak this part of the API (referrers, ranges).
	Unsupported
	// Busy: our own bound on requests to the upstream left no place in time; it says nothing about the upstream: 503.
	Busy
)

var kindNames = [...]string{"unavailable", "not_found", "denied", "refused", "throttled", "damaged", "unsupported", "busy"}

// String returns the kind's name as metrics and logs have it.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Error is a failure of one upstream. Its text is for operators and clients
// alike, so it never holds a credential, a signed address or a query.
type Error struct {
	Kind       Kind
	Upstream   string        // host asked, as the operator configured it or the client named it
	Op         string        // what was asked, e.g. "GET library/alpine/manifests/3.20"
	Status     int           // HTTP status the upstream answered, 0 if none
	Code       string        // OCI error code the upstream sent, if any
	Message    string        // what happened, and what to do about it where we know
	RetryAfter time.Duration // how long to wait before asking again, 0 if unknown
	Err        error         // cause, may be nil
}

// Error names the upstream, what was asked, what happened and the cause.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "upstream %s", e.Upstream)
	if e.Op != "" {
		fmt.Fprintf(&b, ": %s", e.Op)
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, ": answered %d", e.Status)
		if e.Code != "" {
			fmt.Fprintf(&b, " %s", e.Code)
		}
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether asking again may help.
func (e *Error) Temporary() bool {
	return e.Kind == Unavailable || e.Kind == Throttled || e.Kind == Damaged || e.Kind == Busy
}

// As returns the upstream failure in err's chain, if there is one.
func As(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// Is reports whether err is an upstream failure of kind k.
func Is(err error, k Kind) bool {
	e, ok := As(err)
	return ok && e.Kind == k
}
