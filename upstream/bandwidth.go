package upstream

import (
	"context"
	"sync"
	"time"
)

// meter holds what is read from an upstream to a number of bytes a second. Who
// has read waits until that is paid for, so that the window of the connection closes and
// the sender slows down. Nil is no limit.
type meter struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	paid time.Time // until when what was read is paid for; guarded by mu
}

func newMeter(rate int64) *meter {
	if rate <= 0 {
		return nil
	}
	return &meter{rate: rate}
}

// pay waits for n bytes' share of time, or for the end of ctx.
func (m *meter) pay(ctx context.Context, n int) {
	if m == nil || n <= 0 {
		return
	}
	m.mu.Lock()
	now := time.Now()
	if m.paid.Before(now) {
		m.paid = now
	}
	m.paid = m.paid.Add(time.Duration(float64(n) / float64(m.rate) * float64(time.Second)))
	wait := m.paid.Sub(now)
	m.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
