package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// direct makes a reader that never touches the disk: one byte is asked for to learn the size.
func (s *Store) direct(ctx context.Context, r *Reader) (*Reader, error) {
	r.origin, r.fill, r.size = Started, nil, -1
	opening, cancel := context.WithTimeout(ctx, s.opt.Patience)
	defer cancel()
	err := retry(opening, s.opt.Patience, func() (bool, error) {
		part, err := r.src.Get(opening, r.digest, 0, 1)
		var se *SourceError
		switch {
		case errors.As(err, &se) && se.BeyondEnd:
			r.size = 0
			return false, nil
		case err != nil:
			return false, err
		}
		r.size = part.Total
		return false, part.Body.Close()
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// through passes [off, stop) from the source to w without the disk. An answer that reaches
// to the end of the blob is verified like any other, for which its start is fetched too.
func (r *Reader) through(w io.Writer, off, stop int64) (int64, error) {
	r.store.count.through.Add(1)
	if stop >= 0 {
		if r.size >= 0 {
			stop = min(stop, r.size)
		}
		p := &passage{w: w, pos: off, from: off, count: &r.store.count.throughBytes}
		err := r.pull(p, stop)
		return p.sent, err
	}
	h, err := newHash(r.digest)
	if err != nil {
		return 0, err
	}
	p := &passage{w: w, from: off, hash: h, count: &r.store.count.throughBytes}
	if err := r.pull(p, r.size); err != nil {
		return p.sent, err
	}
	if !matches(h, r.digest) {
		r.store.count.mismatches.Add(1)
		r.store.markBad(r.digest)
		return p.sent, ErrDamaged
	}
	return p.sent, p.flush()
}

// pull writes the blob's bytes from p.pos to stop (-1: its end) into p, going on where a source breaks.
func (r *Reader) pull(p *passage, stop int64) error {
	if stop >= 0 && p.pos >= stop {
		return nil
	}
	buf := r.store.buffers.Get().(*[]byte)
	defer r.store.buffers.Put(buf)
	return retry(r.ctx, r.store.opt.Patience, func() (bool, error) {
		before := p.pos
		n := int64(-1)
		if stop >= 0 && (p.pos > 0 || stop != r.size) {
			n = stop - p.pos
		}
		part, err := r.src.Get(r.ctx, r.digest, p.pos, n)
		if err != nil {
			return false, err
		}
		defer part.Body.Close()
		if part.Off > p.pos || r.size >= 0 && part.Total >= 0 && part.Total != r.size {
			return false, &SourceError{Final: true, Err: fmt.Errorf("%s sent another part of %s than it was asked for: %w", r.src.Key(), r.digest, ErrDamaged)}
		}
		if _, err := io.CopyN(io.Discard, part.Body, p.pos-part.Off); err != nil {
			return false, err
		}
		var body io.Reader = part.Body
		if stop >= 0 {
			body = io.LimitReader(body, stop-p.pos)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{p}, body, *buf)
		if err == nil && p.pos < stop {
			err = io.ErrUnexpectedEOF
		}
		if p.err != nil {
			err = &SourceError{Final: true, Err: p.err} // the client's end, no reason to ask again
		}
		return p.pos-before >= progress, err
	})
}

// retry calls try until it succeeds, fails for good, or has failed for longer
// than patience without progress.
func retry(ctx context.Context, patience time.Duration, try func() (progressed bool, err error)) error {
	var since time.Time
	for failures := 0; ; {
		progressed, err := try()
		var se *SourceError
		if err == nil || errors.As(err, &se) && se.Final {
			return err
		}
		if progressed || failures == 0 {
			failures, since = 0, time.Now()
		}
		failures++
		wait := min(retryMost, retryFirst<<failures)
		wait = wait/2 + rand.N(wait/2+1)
		if se != nil {
			wait = max(wait, se.RetryAfter)
		}
		if failures >= maxFailures || time.Since(since)+wait > patience {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// A passage hands a stream on from byte from, hashing all of it and holding
// the last byte back if it has a hash.
type passage struct {
	w         io.Writer
	pos, from int64 // where the stream stands; where the client's part begins
	hash      hash.Hash
	held      []byte // at most one byte
	sent      int64
	err       error // the client's
	count     interface{ Add(int64) int64 }
}

func (p *passage) Write(b []byte) (int, error) {
	total := len(b)
	if p.hash != nil {
		p.hash.Write(b)
	}
	if skip := p.from - p.pos; skip > 0 {
		b = b[min(skip, int64(len(b))):]
	}
	p.pos += int64(total)
	p.count.Add(int64(total))
	if len(b) == 0 {
		return total, nil
	}
	if p.hash != nil {
		if err := p.flush(); err != nil {
			return 0, err
		}
		p.held = append(p.held, b[len(b)-1])
		b = b[:len(b)-1]
	}
	return total, p.pass(b)
}

func (p *passage) pass(b []byte) error {
	n, err := p.w.Write(b)
	p.sent += int64(n)
	p.err = err
	return err
}

// flush sends the byte held back.
func (p *passage) flush() error {
	if len(p.held) == 0 {
		return nil
	}
	b := p.held
	p.held = p.held[:0]
	return p.pass(b)
}

// markBad keeps a digest that no source has right from being asked for again and again.
func (s *Store) markBad(d v1.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for k, until := range s.bad {
		if now.After(until) {
			delete(s.bad, k)
		}
	}
	s.bad[d] = now.Add(badFor)
}
