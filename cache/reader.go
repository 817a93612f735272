package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Reader hands one digest's bytes to one client. It follows a fill at byte
// granularity, or reads what is here. It is for one goroutine at a time; the
// context given to Store.Blob bounds its life.
type Reader struct {
	ctx    context.Context
	store  *Store
	digest v1.Hash
	src    Source
	origin Origin
	size   int64    // -1: not known yet
	file   *os.File // its own descriptor, for its offset is sendfile's; nil: straight through
	fill   *fill    // nil: all of it is here, or straight through
	own    *supply  // src as the fill sees it
	ask    Ask
	small  *bytes.Buffer // all of a small blob that never touched the disk, verified

	waiter
	// Guarded by fill.mu; the waiter's pos is where the reader stands.
	stop   int64  // end of what it reads now, -1: the end of the blob
	ahead  []Span // ranges that it will read later
	sent   bool   // bytes were handed out
	cut    error  // what it was given has turned out to be wrong
	kicked int64  // where it stood when the owner was last told
}

// Size of the blob in bytes; -1 if the source does not say.
func (r *Reader) Size() int64 { return r.size }

// Origin says where the bytes come from.
func (r *Reader) Origin() Origin { return r.origin }

// Close lets go of the blob. The fill, if there is one, goes on without the reader.
func (r *Reader) Close() error {
	if r.fill != nil {
		r.fill.leave(r)
	}
	return r.letGo()
}

// letGo closes the file: what has left the disk is not to be held there by its readers.
func (r *Reader) letGo() error {
	if r.file == nil {
		return nil
	}
	r.store.inUse.drop(r.digest)
	err := r.file.Close()
	r.file = nil
	return err
}

// Want tells the fill which ranges will be read, so that they are fetched
// together and not one after the other.
func (r *Reader) Want(parts ...Span) {
	if r.fill == nil {
		return
	}
	r.fill.mu.Lock()
	defer r.fill.mu.Unlock()
	r.ahead = append(r.ahead[:0], parts...)
	r.fill.wakeOwner()
}

// demand appends what the reader wants, from where it stands. An open end is
// no demand for the rest: it asks for a piece beyond what has been read. Called with fill.mu held.
func (r *Reader) demand(wants []Span, piece int64) []Span {
	stop := r.stop
	if stop < 0 {
		stop = r.pos + piece
	}
	if stop > r.pos {
		wants = append(wants, Span{r.pos, stop})
	}
	for _, s := range r.ahead {
		if s.Off > r.pos {
			wants = append(wants, s)
		}
	}
	return wants
}

// CopyRange writes n bytes from off to w as they land; n < 0 means to the end of the
// blob, and then the last byte is written only after the digest has matched.
// Where w is an io.ReaderFrom it is given the file itself (an io.LimitedReader over
// the *os.File), so that a socket can use sendfile. An error means that the
// rest can't be had: what was written must not be ended as if it were whole.
func (r *Reader) CopyRange(w io.Writer, off, n int64) (int64, error) {
	stop := int64(-1)
	if n >= 0 {
		stop = off + n
	}
	var done int64
	var err error
	switch {
	case r.small != nil:
		all := r.small.Bytes()
		if stop < 0 || stop > int64(len(all)) {
			stop = int64(len(all))
		}
		n, err := w.Write(all[min(off, stop):stop])
		return int64(n), err
	case r.file == nil:
		return r.through(w, off, off, stop)
	case r.fill == nil:
		if stop < 0 {
			stop = r.size
		}
		return r.send(w, off, stop)
	default:
		done, err = r.follow(w, off, stop)
	}
	if errors.Is(err, errNoRoom) {
		more, err := r.through(w, off, off+done, stop)
		return done + more, err
	}
	return done, err
}

// follow sends [off, stop) as it lands.
func (r *Reader) follow(w io.Writer, off, stop int64) (int64, error) {
	pos := off
	for {
		end, last, err := r.await(pos, stop)
		if err != nil {
			return pos - off, err
		}
		n, err := r.send(w, pos, end)
		pos += n
		if err != nil {
			return pos - off, r.why(err)
		}
		if last {
			return pos - off, r.why(nil)
		}
	}
}

// why prefers the reason for which the file was emptied to the error that this led to.
func (r *Reader) why(err error) error {
	r.fill.mu.Lock()
	defer r.fill.mu.Unlock()
	if r.cut != nil {
		return r.cut
	}
	return err
}

// send writes [off, end) of the file.
func (r *Reader) send(w io.Writer, off, end int64) (int64, error) {
	if end <= off {
		return 0, nil
	}
	if _, err := r.file.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	lr := &io.LimitedReader{R: r.file, N: end - off}
	var n int64
	var err error
	if rf, ok := w.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(lr)
	} else {
		n, err = io.Copy(w, lr)
	}
	if err == nil && n < end-off {
		err = fmt.Errorf("cache: %s is shorter on disk than it was: %w", r.digest, io.ErrUnexpectedEOF)
	}
	return n, err
}

// await blocks until bytes at pos may be sent and returns how far; last says
// that nothing comes after them.
func (r *Reader) await(pos, stop int64) (end int64, last bool, err error) {
	f := r.fill
	for {
		f.mu.Lock()
		r.pos, r.stop = pos, stop
		end, last, err = f.available(r)
		unclaimed := end == pos && !last && err == nil && f.taken.from(pos) == pos
		if unclaimed || pos-r.kicked > f.store.opt.PieceSize/4 {
			r.kicked = pos
			f.wakeOwner()
		}
		f.mu.Unlock()
		if end > pos || last || err != nil {
			return end, last, err
		}
		select {
		case <-r.wake:
		case <-r.ctx.Done():
			return pos, false, r.ctx.Err()
		}
	}
}

// available returns the end of what r may be sent from where it stands. Called with mu held.
func (f *fill) available(r *Reader) (end int64, last bool, err error) {
	stop := r.stop
	if f.size >= 0 && (stop < 0 || stop > f.size) {
		stop = f.size
	}
	if r.cut != nil {
		return r.pos, false, r.cut
	}
	if f.phase == failed && errors.Is(f.err, ErrDamaged) { // what is in the file is known to be wrong
		return r.pos, false, f.err
	}
	if f.phase == verified {
		r.sent = true
		return stop, true, nil
	}
	end = r.pos
	if !f.bad && f.extent(r) > verifiedFirst {
		end = f.landed.from(r.pos)
	}
	if r.stop < 0 { // to the end of the blob: one byte is held back until the digest has matched
		hold := end - 1
		if f.size >= 0 {
			hold = f.size - 1
		}
		if f.size >= 0 && r.pos >= hold && !f.rest {
			f.rest = true
			f.wakeOwner()
		}
		end = min(end, hold)
	} else if stop >= 0 {
		end = min(end, stop)
		last = end == stop
	}
	end = max(end, r.pos)
	switch {
	case end > r.pos:
		r.sent = true
	case !last && f.phase == failed:
		return end, false, f.errFor(r.own)
	}
	return end, last, nil
}

// extent is what is known of how large the blob is: what r has told its client counts too. Called with mu held.
func (f *fill) extent(r *Reader) int64 {
	switch {
	case f.size >= 0:
		return f.size
	case r.size >= 0:
		return r.size
	}
	return f.landed.from(0)
}

// begin places the reader by what it asked for, once the size is known. Called with fill.mu held.
func (r *Reader) begin(size int64) {
	switch {
	case r.ask.Off < 0:
		r.pos, r.stop = max(0, size+r.ask.Off), size
	case r.ask.N < 0:
		r.pos, r.stop = r.ask.Off, -1
	default:
		r.pos, r.stop = r.ask.Off, r.ask.Off+r.ask.N
	}
	r.kicked = r.pos
}

// opened waits until the reader knows what it needs for the answer's headers:
// the size, or that a stream without size has begun; for small content, that it is verified.
func (r *Reader) opened(ctx context.Context, grace <-chan time.Time) error {
	f := r.fill
	small := true // until grace is over, small content is waited for
	for {
		f.mu.Lock()
		size, known := f.size, f.size >= 0 || len(f.landed) > 0
		ok := f.phase == verified || known && !f.assumed && (!small || f.extent(r) > verifiedFirst)
		ok = ok && r.own.confirmed
		err := r.cut
		switch {
		case err != nil || ok:
		case f.phase == verified: // by what an earlier fill had left, not by this reader's source
			err = ErrUnconfirmed
		case f.phase == failed:
			err = f.errFor(r.own)
		case r.own.dead != nil && !r.own.confirmed:
			err = r.own.dead
		case known && !r.own.confirmed && r.own.active == 0 && len(f.sources) > 1:
			err = ErrUnconfirmed // its source has failed so far, and others bring the bytes
		}
		last := r.own.last
		if ok && err == nil {
			r.size = size
		}
		f.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-r.wake:
		case <-grace:
			small = false
		case <-ctx.Done():
			if last != nil && r.ctx.Err() == nil {
				return last
			}
			return ctx.Err()
		}
	}
}

// openFile gives the reader a descriptor of its own for what the fill has or had on disk.
func (r *Reader) openFile() error {
	paths := []string{r.store.files.fillData(r.digest), r.store.files.blobPath(r.digest)}
	if r.fill.info == nil { // it was here before the fill began
		paths = paths[1:]
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			r.store.diskTrouble("open a fill", err)
			return errNoRoom
		}
		info, err := f.Stat()
		if err == nil && (r.fill.info == nil || os.SameFile(info, r.fill.info)) {
			r.file = f
			r.store.inUse.add(r.digest)
			return nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return errNoRoom
}
