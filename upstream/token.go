package upstream

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxTokens       = 1024
	maxLogins       = 64
	refreshPause    = 5 * time.Second  // after a refresh ahead of time has failed
	refusedPause    = 10 * time.Second // after a token service has refused a name and password: more tries lock accounts
	defaultTokenTTL = 60 * time.Second
	maxTokenTTL     = 24 * time.Hour
)

// tokenKey is what a token was issued for. The credentials are part of it: another identity
// never gets this one's token.
type tokenKey struct {
	ep                    *endpoint
	realm, service, scope string
	near                  zone
	id                    authn.AuthConfig
}

// login is an identity at a token service.
type login struct {
	realm string
	id    authn.AuthConfig
}

// token is a bearer token; it doesn't change.
type token struct {
	value  string
	issued time.Time // when it was asked for, by our clock
	life   time.Duration
}

// usable: a margin of max(10 %, 5 s), but at most half its life, is left for the way.
func (t *token) usable(now time.Time) bool {
	margin := min(max(t.life/10, 5*time.Second), t.life/2)
	return now.Before(t.issued.Add(t.life - margin))
}

// ageing: in the last quarter of its life, time for the next.
func (t *token) ageing(now time.Time) bool { return now.After(t.issued.Add(t.life / 4 * 3)) }

type tokenEntry struct {
	cur    *token
	flight *tokenFlight
	used   time.Time
	again  time.Time // no refresh ahead of time before this
}

// tokenFlight is one request for a token, shared by all who wait for it.
type tokenFlight struct {
	done chan struct{} // closed when tok and err are set
	tok  *token
	err  error
}

// tokens holds at most maxTokens tokens and asks for each key once at a time.
type tokens struct {
	mu      sync.Mutex
	m       map[tokenKey]*tokenEntry // guarded by mu
	refused map[login]refusal        // guarded by mu
}

// refusal is a token service's 401 to a name and password.
type refusal struct {
	err   error
	until time.Time
}

func newTokens() *tokens { return &tokens{m: map[tokenKey]*tokenEntry{}, refused: map[login]refusal{}} }

// refuse remembers a refused login; t.mu is held.
func (t *tokens) refuse(k tokenKey, err error) {
	f, ok := fault.As(err)
	if !ok || f.Status != http.StatusUnauthorized || k.id == (authn.AuthConfig{}) {
		return
	}
	if len(t.refused) >= maxLogins {
		clear(t.refused)
	}
	t.refused[login{k.realm, k.id}] = refusal{err, time.Now().Add(refusedPause)}
}

// fetcher asks for a token on a goroutine of the client's, not on the caller's context: the caller may
// leave, the others still want it.
type fetcher struct {
	spawn func(func()) bool
	fetch func() (*token, error)
}

// get returns a usable token, or waits for one as long as ctx lasts.
func (t *tokens) get(ctx context.Context, k tokenKey, f fetcher) (*token, error) {
	now := time.Now()
	t.mu.Lock()
	e := t.m[k]
	if e == nil {
		t.makeRoom()
		e = &tokenEntry{}
		t.m[k] = e
	}
	e.used = now
	if e.cur != nil && e.cur.usable(now) {
		tok := e.cur
		if tok.ageing(now) && e.flight == nil && now.After(e.again) {
			t.fly(k, e, f)
		}
		t.mu.Unlock()
		return tok, nil
	}
	if r := t.refused[login{k.realm, k.id}]; e.flight == nil && now.Before(r.until) {
		t.mu.Unlock()
		return nil, r.err
	}
	if e.flight == nil && !t.fly(k, e, f) {
		t.mu.Unlock()
		return nil, errClosed
	}
	flight := e.flight
	t.mu.Unlock()
	select {
	case <-flight.done:
		return flight.tok, flight.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// fly starts a request; t.mu is held. false if the client is closed.
func (t *tokens) fly(k tokenKey, e *tokenEntry, f fetcher) bool {
	flight := &tokenFlight{done: make(chan struct{})}
	ok := f.spawn(func() {
		tok, err := f.fetch()
		t.mu.Lock()
		flight.tok, flight.err = tok, err
		e.flight = nil
		if err == nil {
			e.cur = tok
		} else {
			e.again = time.Now().Add(refreshPause)
			t.refuse(k, err)
		}
		t.mu.Unlock()
		close(flight.done)
	})
	if ok {
		e.flight = flight
	}
	return ok
}

// drop forgets the token of k if it still is the one that was refused: whoever comes late
// must not throw away its successor.
func (t *tokens) drop(k tokenKey, refused *token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[k]; e != nil && e.cur == refused {
		e.cur = nil
	}
}

// makeRoom drops the entry that was used the longest time ago; t.mu is held.
func (t *tokens) makeRoom() {
	if len(t.m) < maxTokens {
		return
	}
	var oldest tokenKey
	var at time.Time
	for k, e := range t.m {
		if e.flight == nil && (at.IsZero() || e.used.Before(at)) {
			oldest, at = k, e.used
		}
	}
	delete(t.m, oldest)
}
