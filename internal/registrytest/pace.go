package registrytest

import (
	"context"
	"sync"
	"time"
)

const (
	maxChunk = 64 << 10 // most bytes of a body sent in one write
	minChunk = 1 << 10
	// pacedBuffer is the send buffer of a paced connection: small, so that the
	// bytes counted are close to the bytes received.
	pacedBuffer = 64 << 10
	// catchUp is how much lateness of a timer is made good by sending at once;
	// more than that was idleness, which earns nothing.
	catchUp = 50 * time.Millisecond
)

// pacer lets bytes pass at a rate. One pacer may serve many senders: they share it.
type pacer struct {
	rate int64 // bytes a second; not above zero: no limit

	mu   sync.Mutex
	next time.Time // when all bytes let through so far have passed; guarded by mu
}

// wait returns once n more bytes have had the time to pass, or ctx ends.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p == nil || p.rate <= 0 {
		return ctx.Err()
	}
	d := time.Until(p.reserve(n))
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reserve returns when the n bytes will have passed.
func (p *pacer) reserve(n int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.next.IsZero() || now.Sub(p.next) > catchUp {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return p.next
}

// chunk is how much to send at once: about 20 ms worth at low rates.
func (p *pacer) chunk() int {
	if p == nil || p.rate <= 0 {
		return maxChunk
	}
	return int(max(minChunk, min(maxChunk, p.rate/50)))
}

// limits reports whether the pacer does anything.
func (p *pacer) limits() bool { return p != nil && p.rate > 0 }
