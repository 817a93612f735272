package cache

import (
	"context"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Source is where the bytes of a digest may be had: one repository of one upstream.
// Its methods may be called by many goroutines at once.
type Source interface {
	// Key names the upstream and the repository; equal keys mean the same source.
	Key() string
	// Get makes one attempt to open n bytes of d from offset off; n < 0 means to the
	// end, and with off 0 no range is asked for at all. It returns when the
	// source has answered with headers. Errors that are not a *SourceError are tried again.
	Get(ctx context.Context, d v1.Hash, off, n int64) (Part, error)
}

// A Part is a source's good answer. What it holds may start elsewhere than was
// asked for (a source without ranges starts at 0): the fill decides what to do.
type Part struct {
	Body  io.ReadCloser // fails by itself when no byte comes for the stall timeout
	Off   int64         // offset of the first byte of Body
	Len   int64         // bytes in Body, -1 if the source does not say
	Total int64         // size of the blob, -1 if the source does not say
}

// SourceError tells a fill how to go on after a source failed.
type SourceError struct {
	Err        error
	Final      bool          // asking this source again is of no use: not there, not allowed
	BeyondEnd  bool          // the range asked for starts beyond the end of the blob (HTTP 416)
	Throttled  bool          // the source asks for less: go down to one request at a time
	Busy       bool          // no place to ask from came free: says nothing about the source
	RetryAfter time.Duration // wait at least so long before asking again
}

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }
