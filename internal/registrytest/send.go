package registrytest

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// send writes an answer under a fault. It panics with [http.ErrAbortHandler]
// where the answer is not to be ended cleanly, which is how net/http wants to
// be told.
func (s *Server) send(w http.ResponseWriter, r *http.Request, rep reply, f met, e *entry) {
	ctx := r.Context()
	switch {
	case !s.pass(ctx, f.Delay),
		f.StallHeaders && !s.stand(ctx, f):
		panic(http.ErrAbortHandler)
	case f.CutAt < 0:
		s.abort(w, r, f)
	case f.Garbage:
		s.garble(w, r)
	}
	size := rep.body.size
	declared := max(size+f.Length, 0)
	bodyAllowed := rep.status >= 200 && rep.status != http.StatusNoContent && rep.status != http.StatusNotModified
	if !f.NoLength && bodyAllowed {
		rep.header.Set("Content-Length", strconv.FormatInt(declared, 10))
	}
	for key, values := range rep.header {
		w.Header()[key] = values
	}
	e.status.Store(int64(rep.status))
	w.WriteHeader(rep.status)
	if r.Method == http.MethodHead || !bodyAllowed {
		return
	}
	if !f.NoLength {
		rep.body.size = min(size, declared)
	}
	b := body{server: s, w: w, rc: http.NewResponseController(w), r: r, e: e, f: f, section: rep.body}
	if e.Kind == KindBlob || e.Kind == KindStorage {
		b.pacers = append(b.pacers, &s.total)
		if _, c := connOf(ctx); c != nil {
			b.pacers = append(b.pacers, &c.pacer)
		}
	}
	b.pacers = append(b.pacers, &pacer{rate: f.Rate})
	b.send()
}

// body is one body under way.
type body struct {
	server  *Server
	w       http.ResponseWriter
	rc      *http.ResponseController
	r       *http.Request
	e       *entry
	f       met
	section section
	pacers  []*pacer
}

// send writes the body in chunks that end where the fault does something.
func (b *body) send() {
	ctx := b.r.Context()
	cutAt, cut := b.f.cut(b.section.size)
	stallAt, stall := b.f.stall()
	buf := b.server.buffers.Get().(*[maxChunk]byte)
	defer b.server.buffers.Put(buf)
	step, flush := b.step()
	if flush || b.f.NoLength {
		_ = b.rc.Flush() // a client that is gone shows at the next write
	}
	for sent := int64(0); ; {
		if stall && sent >= stallAt {
			_ = b.rc.Flush()
			if !b.server.stand(ctx, b.f) {
				panic(http.ErrAbortHandler)
			}
			stall = false
		}
		if cut && sent >= cutAt {
			b.server.abort(b.w, b.r, b.f)
		}
		n := min(step, b.section.size-sent)
		if n == 0 {
			return
		}
		if stall {
			n = min(n, stallAt-sent)
		}
		if cut {
			n = min(n, cutAt-sent)
		}
		b.chunk(buf[:n], sent)
		if flush {
			_ = b.rc.Flush()
		}
		sent += n
	}
}

// step is the size of a chunk, and whether each is to be flushed.
func (b *body) step() (size int64, flush bool) {
	size = maxChunk
	for _, p := range b.pacers {
		size = min(size, int64(p.chunk()))
		flush = flush || p.limits()
	}
	return size, flush
}

// chunk sends the bytes at offset at, when the pacers let it.
func (b *body) chunk(p []byte, at int64) {
	for _, pace := range b.pacers {
		if pace.wait(b.r.Context(), len(p)) != nil {
			panic(http.ErrAbortHandler)
		}
	}
	// A section that can't be read is a blob shorter than was said: cut.
	if n, err := b.section.r.ReadAt(p, b.section.off+at); n < len(p) && err != nil {
		panic(http.ErrAbortHandler)
	}
	b.f.corrupt(p, at)
	n, err := b.w.Write(p)
	b.server.counters.addBody(b.e, n)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// abort ends the connection, or the stream over HTTP/2, without ending the answer.
func (s *Server) abort(w http.ResponseWriter, r *http.Request, f met) {
	if f.CutAt >= 0 {
		_ = http.NewResponseController(w).Flush()
	}
	if _, c := connOf(r.Context()); c != nil && f.Reset {
		c.reset()
	}
	panic(http.ErrAbortHandler)
}

// garble answers with something that isn't HTTP, of either version, and ends
// the connection.
func (s *Server) garble(w http.ResponseWriter, r *http.Request) {
	const garbage = "\x00\xffthis is not HTTP\r\n\r\n"
	c, _ := connOf(r.Context())
	if c == nil {
		var err error
		if c, _, err = http.NewResponseController(w).Hijack(); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	_, _ = c.Write([]byte(garbage))
	_ = c.Close()
	panic(http.ErrAbortHandler)
}

// pass waits; false when the request has ended first.
func (s *Server) pass(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stand stalls as long as the fault says; false when the request has ended first.
func (s *Server) stand(ctx context.Context, f met) bool {
	s.counters.update(func() { s.counters.stalled++ })
	defer s.counters.update(func() { s.counters.stalled-- })
	var timeout <-chan time.Time
	if f.Stall > 0 {
		t := time.NewTimer(f.Stall)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-f.released:
		return true
	case <-timeout:
		return true
	case <-ctx.Done():
		return false
	}
}
