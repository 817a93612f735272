package upstream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What has no request under way goes before the second request for something that has.
func TestGateLetsNewcomersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2)
		enter := func(what string) {
			if err := g.enter(t.Context(), what); err != nil {
				t.Error(err)
			}
		}
		enter("a")
		enter("b")
		var mu sync.Mutex
		var order []string
		for _, what := range []string{"a", "a", "b", "c", "c", "d"} {
			go func() {
				enter(what)
				mu.Lock()
				order = append(order, what)
				mu.Unlock()
			}()
			synctest.Wait() // they come in this order
		}
		for _, what := range []string{"a", "b", "a", "b", "a", "d"} {
			g.leave(what)
			synctest.Wait()
		}
		if want := []string{"a", "b", "a", "c", "d", "c"}; !slices.Equal(order, want) {
			t.Errorf("entered in the order %v, want %v", order, want)
		}
	})
}

// A place that is given up while it is granted is not lost.
func TestGateLosesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		if err := g.enter(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.enter(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("enter a full gate: %v", err)
		}
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan error, 1)
			go func() { gone <- g.enter(ctx, "c") }()
			synctest.Wait()
			go g.leave("a")
			go cancel()
			if <-gone == nil {
				g.leave("c")
			}
			synctest.Wait()
			if err := g.enter(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		if len(g.waiting) != 0 || len(g.flying) != 1 {
			t.Errorf("left behind: %v %v", g.waiting, g.flying)
		}
	})
}
