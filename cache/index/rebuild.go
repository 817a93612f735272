package index

import (
	"context"
	"errors"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Files is what an index is rebuilt from. An error of a walk means that rows may be missing.
type Files struct {
	// Blobs yields every digest on disk, with its size and when it was last used, as far as the file tells.
	Blobs func(yield func(v1.Hash, Facts) bool) error
	// Links yields what the manifests on disk say may be had through their repositories.
	Links func(yield func(repo string, l Link) bool) error
	// Has says whether a digest is on disk now. It is asked once for every row.
	Has func(v1.Hash) bool
}

// Rebuilding is done a few rows at a time, so that it disturbs nobody.
const (
	rebuildBatch = 1000
	rebuildPause = 10 * time.Millisecond
)

// Rebuild brings the index in line with the files, and then clears
// NeedRebuild. It adds to what is known: use counts, later uses and links that
// no file tells of stay, and so does all that is learnt meanwhile; facts of
// digests that are not on disk go. It waits for Loaded, runs on the caller's
// goroutine, slowly, and returns early with the error of ctx, of a walk, or
// ErrClosed. One Rebuild at a time.
func (x *Index) Rebuild(ctx context.Context, files Files) error {
	select {
	case <-x.loaded:
	case <-ctx.Done():
		return ctx.Err()
	}
	reasons := x.stale.Load()
	p := pacer{x: x, ctx: ctx}
	err := p.check(files.Blobs(func(d v1.Hash, f Facts) bool {
		x.change(d, factsChange{put: true, size: f.Size, last: f.LastUse})
		return p.step()
	}))
	if err != nil {
		return err
	}
	err = p.check(files.Links(func(repo string, l Link) bool {
		x.Link(repo, l)
		return p.step()
	}))
	if err != nil {
		return err
	}
	if err := x.forgetAbsent(&p, files.Has); err != nil {
		return err
	}
	if err := x.ask(ctx, false); err != nil {
		return err
	}
	if !x.stale.CompareAndSwap(reasons, 0) {
		return errLost
	}
	return nil
}

// errLost: a change could not be kept while the index was rebuilt.
var errLost = errors.New("index: rows were lost during the rebuild, it has to be done again")

// forgetAbsent deletes the facts of digests that are not on disk, those too
// that went after the walk had seen them.
func (x *Index) forgetAbsent(p *pacer, has func(v1.Hash) bool) error {
	for d, f := range x.All() {
		if !has(d) {
			x.Delete(d)
			if has(d) { // it came, and its Put may have been before our Delete
				x.change(d, factsChange{put: true, size: f.Size, last: f.LastUse})
			}
		}
		if !p.step() {
			return p.err
		}
	}
	return nil
}

// pacer holds a rebuild back: after every batch it waits until that is written, and a little more.
type pacer struct {
	x   *Index
	ctx context.Context
	n   int
	err error
}

// step counts a row; false means that the rebuild has to end, err says why.
func (p *pacer) step() bool {
	if p.n++; p.n%rebuildBatch != 0 {
		return true
	}
	if p.err = p.x.ask(p.ctx, false); p.err != nil {
		return false
	}
	pause := time.NewTimer(rebuildPause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-p.x.stop:
		p.err = ErrClosed
	case <-p.ctx.Done():
		p.err = p.ctx.Err()
	}
	return p.err == nil
}

// check returns why a walk ended early: our reason before the walk's.
func (p *pacer) check(walk error) error {
	if p.err != nil {
		return p.err
	}
	return walk
}
