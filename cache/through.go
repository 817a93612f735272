package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"time"
)

// direct makes a reader that never touches the disk: one byte is asked for to learn the size. What is small
// is fetched and verified at once.
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
	if r.size >= 0 && r.size <= verifiedFirst {
		r.small = new(bytes.Buffer)
		if _, err := r.through(r.small, 0, 0, -1); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// through passes [pos, stop) from the source to w without the disk; from off to pos the reader has
// sent what the fill had. An answer that reaches to the end of the blob is verified like any other: what comes
// before pos is hashed from the file if it is there, else fetched too.
func (r *Reader) through(w io.Writer, off, pos, stop int64) (int64, error) {
	r.store.count.through.Add(1)
	defer func() { _ = r.letGo() }() // it was only read
	if stop >= 0 {
		if r.size >= 0 {
			stop = min(stop, r.size)
		}
		p := &passage{w: w, pos: pos, from: pos, count: &r.store.count.throughBytes}
		err := r.pull(p, stop)
		return p.sent, err
	}
	h, err := newHash(r.digest)
	if err != nil {
		return 0, err
	}
	p := &passage{w: w, from: pos, hash: h, count: &r.store.count.throughBytes}
	if pos > 0 && r.hasFront(pos) {
		if _, err := io.Copy(h, io.NewSectionReader(r.file, 0, pos)); err != nil {
			return 0, err
		}
		p.pos = pos
	} else if pos > off {
		p.sentBefore = io.NewSectionReader(r.file, off, pos-off)
		p.sentAt = off
	}
	if err := r.pull(p, r.size); err != nil {
		return p.sent, err
	}
	if !matches(h, r.digest) {
		r.store.count.mismatches.Add(1)
		if pos == 0 { // else it may be what was in the file
			r.store.mu.Lock()
			r.store.markBad(r.digest, []string{r.src.Key()})
			r.store.mu.Unlock()
		}
		return p.sent, ErrDamaged
	}
	return p.sent, p.flush()
}

// hasFront reports whether the fill that has ended left [0, pos) in the file.
func (r *Reader) hasFront(pos int64) bool {
	if r.fill == nil || r.file == nil {
		return false
	}
	r.fill.mu.Lock()
	defer r.fill.mu.Unlock()
	return r.fill.landed.from(0) >= pos
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
		wait := min(retryMost, retryFirst<<min(failures, 10))
		wait = wait/2 + rand.N(wait/2+1)
		if se != nil {
			wait = max(wait, se.RetryAfter)
		}
		if wait > patience || failures >= 2 && time.Since(since)+wait > patience {
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
	// What the client was sent from sentAt to from, to be compared with what comes; nil for nothing.
	sentBefore *io.SectionReader
	sentAt     int64
	sent       int64
	err        error // the client's
	count      interface{ Add(int64) int64 }
}

func (p *passage) Write(b []byte) (int, error) {
	total := len(b)
	if p.hash != nil {
		p.hash.Write(b)
	}
	if err := p.compare(b); err != nil {
		p.err = err
		return 0, err
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

// compare holds what comes against what the client has been sent of it.
func (p *passage) compare(b []byte) error {
	lo, hi := max(p.pos, p.sentAt), min(p.pos+int64(len(b)), p.from)
	if p.sentBefore == nil || lo >= hi {
		return nil
	}
	sent := make([]byte, hi-lo)
	if _, err := p.sentBefore.ReadAt(sent, lo-p.sentAt); err != nil {
		return err
	}
	if !bytes.Equal(sent, b[lo-p.pos:hi-p.pos]) {
		return ErrDamaged
	}
	return nil
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
