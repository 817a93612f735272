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

// pay takes n bytes' share of time and, if it is to wait, waits until it has come, or ctx has ended.
func (m *meter) pay(ctx context.Context, n int, wait bool) {
	if m == nil || n <= 0 {
		return
	}
	m.mu.Lock()
	now := time.Now()
	if m.paid.Before(now) {
		m.paid = now
	}
	m.paid = m.paid.Add(time.Duration(float64(n) / float64(m.rate) * float64(time.Second)))
	due := m.paid.Sub(now)
	m.mu.Unlock()
	if !wait {
		return
	}
	t := time.NewTimer(due)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
