package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxTries   = 4
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
)

// persist asks until there is an answer, a final no, or the end of patience. A try goes to all
// endpoints in turn.
func persist[T any](c *Client, s *span, try func(ep *endpoint) (T, error)) (T, error) {
	var last error
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = firstPause, maxPause
	out, err := backoff.Retry(s.ctx, func() (T, error) {
		v, err := roam(c, s, try)
		last = err
		return v, again(err)
	}, backoff.WithBackOff(pauses), backoff.WithMaxTries(maxTries), backoff.WithMaxElapsedTime(c.o.Timeouts.Patience))
	if err == nil {
		return out, nil
	}
	if s.caller.Err() != nil {
		return out, fmt.Errorf("upstream %s: %w", c.o.Name, s.caller.Err())
	}
	return out, last // Retry's own would hide the fault behind the end of patience
}

// again marks err for backoff: final, or to be repeated after what the upstream asked for.
func again(err error) error {
	f, ok := fault.As(err)
	switch {
	case err == nil:
		return nil
	case !ok:
		return backoff.Permanent(err)
	case f.Kind == fault.Throttled && f.RetryAfter == 0:
		return backoff.Permanent(err) // to insist unasked makes it worse
	case f.Kind != fault.Unavailable && f.Kind != fault.Throttled || untrusted(err):
		return backoff.Permanent(err)
	case f.RetryAfter > 0:
		return fmt.Errorf("%w (%w)", err, &backoff.RetryAfterError{Duration: f.RetryAfter + rand.N(firstPause)})
	}
	return err
}

// untrusted: a certificate doesn't become good by asking again.
func untrusted(err error) bool {
	var ce *tls.CertificateVerificationError
	return errors.As(err, &ce)
}

// roam tries the endpoints in order of preference, those that failed lately last, and goes on to the
// next when one is not to be had. What an endpoint says (404, 403, 429) is final here.
func roam[T any](c *Client, s *span, try func(ep *endpoint) (T, error)) (v T, err error) {
	for _, ep := range c.inOrder() {
		v, err = try(ep)
		down := fault.Is(err, fault.Unavailable)
		if s.caller.Err() == nil && !errors.Is(context.Cause(s.ctx), errClosed) {
			ep.setDown(down)
		}
		if !down || s.ctx.Err() != nil {
			return v, err
		}
		c.o.Log.Debug("endpoint failed", "upstream", c.o.Name, "endpoint", ep.base.Host, "error", err)
	}
	return v, err
}

// inOrder returns the endpoints, those that count as down after the others.
func (c *Client) inOrder() []*endpoint {
	if len(c.endpoints) == 1 {
		return c.endpoints
	}
	now := time.Now()
	var up, down []*endpoint
	for _, ep := range c.endpoints {
		if ep.isDown(now) {
			down = append(down, ep)
		} else {
			up = append(up, ep)
		}
	}
	return append(up, down...)
}
