package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Ask says what a reader wants of a blob, before its size is known.
type Ask struct {
	// Hint is the size that a manifest of the asker's repository gives, 0 if none. It plans the first request only.
	Hint int64
	// Off and N are the first range that will be read. Off < 0 means the last
	// -Off bytes (N is then ignored), N < 0 means to the end.
	Off, N int64
	// Confirmed says that the asker's right to the digest through its source is
	// known (a link). If it is not set, only the source's own answer confirms it.
	Confirmed bool
}

// Origin says where a reader's bytes come from.
type Origin uint8

const (
	Hit     Origin = iota // whole and verified on disk
	Joined                // a fill that was under way
	Started               // a fill that this reader started, or straight from its source
)

// Blob returns a reader of d. What is absent is fetched from src, or with the
// others who want it. It returns as soon as the size is known, or a stream without size
// has begun; content up to 1 MiB is waited for until it is verified, for some seconds.
// The errors are the source's own, ErrUnconfirmed, ErrDamaged, or ctx's.
func (s *Store) Blob(ctx context.Context, d v1.Hash, src Source, ask Ask) (*Reader, error) {
	if !validDigest(d) {
		return nil, fmt.Errorf("cache: %q is no digest", d.String())
	}
	opening, cancel := context.WithTimeout(ctx, s.opt.Patience)
	defer cancel()
	for {
		r := &Reader{ctx: ctx, store: s, digest: d, src: src, size: -1, waiter: waiter{wake: make(chan struct{}, 1)}}
		if found, err := s.hit(r, ask); found || err != nil {
			return r, err
		}
		f, err := s.join(r, ask)
		switch {
		case errors.Is(err, errEnded):
			select {
			case <-f.done:
				continue
			case <-opening.Done():
				return nil, opening.Err()
			}
		case errors.Is(err, errNoRoom):
			return s.direct(ctx, r)
		case err != nil:
			return nil, err
		}
		return s.follow(opening, r)
	}
}

// hit opens verified content.
func (s *Store) hit(r *Reader, ask Ask) (bool, error) {
	file, size, err := s.files.openBlob(r.digest)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.diskTrouble("open a blob", err)
		}
		return false, nil
	}
	if !ask.Confirmed {
		return false, errors.Join(ErrUnconfirmed, file.Close())
	}
	r.file, r.size, r.origin = file, size, Hit
	s.inUse.add(r.digest)
	s.index.Touch(r.digest)
	return true, nil
}

// join adds the reader to the digest's fill, and starts one if there is none.
func (s *Store) join(r *Reader, ask Ask) (*fill, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.bad[badKey{r.digest, r.src.Key()}]) {
		return nil, ErrDamaged
	}
	f := s.fills[r.digest]
	r.origin = Joined
	if f == nil {
		if s.detached || now.Before(s.tooLarge[r.digest]) {
			return nil, errNoRoom
		}
		f = newFill(s, r.digest, ask)
		r.origin = Started
	}
	own, err := f.join(r, r.src, ask)
	if err != nil {
		return f, err
	}
	r.fill, r.own = f, own
	if s.fills[r.digest] == nil {
		s.fills[r.digest] = f
		s.owners.Go(func() { f.run(s.ctx) })
	}
	return f, nil
}

// follow readies a reader that has joined a fill.
func (s *Store) follow(opening context.Context, r *Reader) (*Reader, error) {
	grace := time.NewTimer(s.opt.Patience / 2)
	defer grace.Stop()
	err := r.opened(opening, grace.C)
	if err == nil {
		err = r.openFile()
	}
	if err == nil {
		return r, nil
	}
	r.fill.leave(r)
	if errors.Is(err, errNoRoom) {
		return s.direct(r.ctx, r)
	}
	return nil, err
}

// State says what the store has of d, and its size where that is known (else -1).
func (s *Store) State(d v1.Hash) (int64, State) {
	if !validDigest(d) {
		return -1, Absent
	}
	if size, ok := s.files.blobSize(d); ok {
		return size, Here
	}
	s.mu.Lock()
	f := s.fills[d]
	s.mu.Unlock()
	if f == nil {
		return -1, Absent
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase == failed {
		return -1, Absent
	}
	if f.assumed {
		return -1, Filling
	}
	return f.size, Filling
}
