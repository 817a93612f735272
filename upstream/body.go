package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entrepot/entrepot/internal/fault"
)

// body is an answer's body with a stall timer, and gives back what the request held when it is closed.
// Reads are for one goroutine; Close may come from any, any number of times.
type body struct {
	rc      io.ReadCloser
	c       *Client
	caller  context.Context
	ctx     context.Context // the request's
	cancel  context.CancelCauseFunc
	op      string
	patient bool                         // waits where limits.bandwidth says so: blobs do, a manifest is paid for by those who come after it
	done    func(result string, n int64) // called once, on Close
	mu      sync.Mutex
	timer   *time.Timer  // guarded by mu; nil after Close
	since   atomic.Int64 // when the read under way began, in ns since start; 0 when nobody reads
	start   time.Time
	n       atomic.Int64
	failure atomic.Pointer[error]
	once    sync.Once
}

func (c *Client) newBody(x *exchange, resp *http.Response, done func(string, int64)) *body {
	b := &body{rc: resp.Body, c: c, caller: x.span.caller, ctx: x.ctx, cancel: x.cancel, op: x.op, patient: x.lane == laneBlob, done: done, start: time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = time.AfterFunc(c.o.Timeouts.Stall, b.watch)
	return b
}

// watch is the timer's: it is set anew for what is left of the read under way, so that reads
// themselves only store a number.
func (b *body) watch() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer == nil {
		return
	}
	limit := b.c.o.Timeouts.Stall
	since := b.since.Load()
	if since == 0 {
		b.timer.Reset(limit)
		return
	}
	if left := limit - (b.clock() - time.Duration(since)); left > 0 {
		b.timer.Reset(left)
		return
	}
	b.cancel(errStall)
}

// clock never returns 0, which means "nobody reads".
func (b *body) clock() time.Duration { return max(1, time.Since(b.start)) }

// Read fails with a *fault.Error, or with an error that wraps the caller's context's.
func (b *body) Read(p []byte) (int, error) {
	if e := b.failure.Load(); e != nil {
		return 0, *e
	}
	b.since.Store(int64(b.clock()))
	n, err := b.rc.Read(p)
	b.since.Store(0)
	b.n.Add(int64(n))
	b.c.meter.pay(b.ctx, n, b.patient)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	err = b.explain(err)
	b.failure.Store(&err)
	return n, err
}

func (b *body) explain(err error) error {
	out := b.c.wireError(b.caller, b.op, context.Cause(b.ctx), err)
	if f, ok := fault.As(out); ok && errors.Is(err, io.ErrUnexpectedEOF) && f.Message == "" {
		f.Message, f.Err = "the connection was cut before the end of the answer", nil
	}
	return out
}

// Close frees the connection. It doesn't read the rest: another request is cheaper than an unknown rest.
func (b *body) Close() error {
	b.once.Do(func() {
		b.mu.Lock()
		b.timer.Stop()
		b.timer = nil
		b.mu.Unlock()
		result := "ok"
		if e := b.failure.Load(); e != nil {
			result = resultOf(*e)
		}
		b.rc.Close()
		b.cancel(context.Canceled)
		b.done(result, b.n.Load())
	})
	return nil
}

// after has f called when the body is closed, after all else. It must be called before the body is handed out.
func (b *body) after(f func()) {
	done := b.done
	b.done = func(result string, n int64) {
		done(result, n)
		f()
	}
}

// resultOf is an error as metrics have it.
func resultOf(err error) string {
	if err == nil {
		return "ok"
	}
	if f, ok := fault.As(err); ok {
		return f.Kind.String()
	}
	return "canceled"
}
