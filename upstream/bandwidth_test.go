package upstream

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Readers at once share the rate, and an idle time is not saved up.
func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(1000)
		time.Sleep(time.Hour)
		start := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 10 {
					m.pay(t.Context(), 100, true)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("4000 bytes at 1000 a second took %v", took)
		}
		newMeter(0).pay(t.Context(), 1<<30, true)
		m.pay(t.Context(), 1000, false)
		if took := time.Since(start); took != 4*time.Second {
			t.Error("no limit is one")
		}
	})
}
