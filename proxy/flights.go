package proxy

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sync/singleflight"
)

// flights lets everybody who asks the same at the same time wait for one
// question to the upstream. A question is the daemon's: it goes on when
// whoever asked first has left, and ends after patience.
type flights struct {
	ctx      context.Context
	patience time.Duration
	group    singleflight.Group
}

// A flight is a question under way.
type flight[T any] <-chan singleflight.Result

// fly joins the question named key or asks it.
func fly[T any](f *flights, key string, ask func(ctx context.Context) (T, error)) flight[T] {
	return f.group.DoChan(key, func() (answer any, err error) {
		defer func() {
			if p := recover(); p != nil { // singleflight would end the process with it
				err = fmt.Errorf("proxy: a question failed: %v\n%s", p, debug.Stack())
			}
		}()
		ctx, cancel := context.WithTimeout(f.ctx, f.patience+time.Second) // the upstream's own clock ends first, and knows why
		defer cancel()
		return ask(ctx)
	})
}

// land waits for the answer, until ctx ends.
func (f flight[T]) land(ctx context.Context) (T, error) {
	var none T
	select {
	case res := <-f:
		answer, ok := res.Val.(T)
		if res.Err == nil && !ok {
			return none, fmt.Errorf("proxy: an answer of type %T", res.Val)
		}
		return answer, res.Err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}
