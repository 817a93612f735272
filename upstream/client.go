package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/semaphore"
)

// Endpoint is one address of a registry.
type Endpoint struct {
	URL   string      // https://host[:port][/path]; http:// where it says so. A path is put before every repository
	Proxy string      // "": from the environment; "direct": none; else an http://, https:// or socks5:// URL
	TLS   *tls.Config // nil: the system's roots. Client certificates and InsecureSkipVerify count for the endpoint's own host alone
}

// Timeouts bound every wait. Zero means the default.
type Timeouts struct {
	Connect  time.Duration // TCP, and again TLS; 3 s
	Headers  time.Duration // from the request to the answer's headers; 5 s
	Stall    time.Duration // a read of a body without a byte; 15 s
	Patience time.Duration // a whole question with all its tries, until headers for blobs; 10 s
}

// Credentials says who we are; the zero AuthConfig is anonymous. It is asked before each request, by
// many goroutines, and does its own caching.
type Credentials interface {
	Authorization(ctx context.Context, host, repository string) (authn.AuthConfig, error)
}

// Event is one request to the upstream, sign-in and redirects included.
type Event struct {
	Kind     string        // manifest, blob, token, tags, referrers
	Result   string        // ok, canceled, or the name of a fault.Kind
	Bytes    int64         // read of the answer's body
	Duration time.Duration // until the body was closed
}

// Options describe one registry.
type Options struct {
	Name          string                 // as clients say it, e.g. docker.io: for errors
	Endpoints     []Endpoint             // in order of preference, at least one
	Credentials   Credentials            // nil: anonymous
	Wild          bool                   // Name came from a pattern: its own host may then never be on loopback
	AllowRedirect func(host string) bool // hosts on private addresses that a redirect may lead to; nil: none
	Timeouts      Timeouts
	Requests      int    // at once, in all, tokens apart; default 64. A quarter is kept for what is not a blob
	Bandwidth     int64  // most bytes of bodies a second, all together; 0: no limit
	UserAgent     string // default "entrepot"
	Via           string // value of the Via header of each request, "" for none
	// Resolve looks names up; nil is the system's resolver. What it returns is checked like any address.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Observe func(Event)  // told about each request when its body is closed; may be nil
	Log     *slog.Logger // nil: discard
}

// Client asks one registry. It may be used by many goroutines at once.
type Client struct {
	o         Options
	endpoints []*endpoint
	tokens    *tokens
	places    *places
	meter     *meter
	api, blob *gate               // requests under way, until their bodies are closed
	sign      *semaphore.Weighted // token requests: apart, for whoever waits for one holds a place already

	ctx   context.Context // ends with Close
	stop  context.CancelCauseFunc
	mu    sync.Mutex
	ended bool // guarded by mu
	wg    sync.WaitGroup
}

const tokenRequests = 8

// New checks o and returns a client that has opened no connection yet.
func New(o Options) (*Client, error) { return newClient(o, nil) }

// newClient is New with a network of the caller's; nil is the real one.
func newClient(o Options, dial dialFunc) (*Client, error) {
	if len(o.Endpoints) == 0 {
		return nil, errors.New("upstream " + o.Name + ": no endpoint")
	}
	o = withDefaults(o)
	c := &Client{
		o:      o,
		tokens: newTokens(),
		places: newPlaces(),
		meter:  newMeter(o.Bandwidth),
		sign:   semaphore.NewWeighted(tokenRequests),
	}
	c.api, c.blob = newGates(o.Requests)
	for _, e := range o.Endpoints {
		ep, err := newEndpoint(e, o)
		if err != nil {
			return nil, err
		}
		ep.guard.dial = dial
		c.endpoints = append(c.endpoints, ep)
	}
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	return c, nil
}

func withDefaults(o Options) Options {
	t := &o.Timeouts
	t.Connect = cmp.Or(t.Connect, 3*time.Second)
	t.Headers = cmp.Or(t.Headers, 5*time.Second)
	t.Stall = cmp.Or(t.Stall, 15*time.Second)
	t.Patience = cmp.Or(t.Patience, 10*time.Second)
	o.UserAgent = cmp.Or(o.UserAgent, "entrepot")
	if o.Requests <= 0 {
		o.Requests = 64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	return o
}

// Name is what clients call the registry.
func (c *Client) Name() string { return c.o.Name }

// Close ends what is under way, bodies included, and waits for the client's own goroutines.
// It may be called twice.
func (c *Client) Close() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.stop(errClosed)
	c.wg.Wait()
	for _, ep := range c.endpoints {
		ep.closeIdle()
	}
}

// spawn runs f on a goroutine of the client; false if the client is closed.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.wg.Go(f)
	return true
}

// headerLimit bounds one hop from nothing to headers: TCP, TLS, request. The transport has
// limits for each, but none for what a proxy makes of them.
func (c *Client) headerLimit() time.Duration {
	return 2*c.o.Timeouts.Connect + c.o.Timeouts.Headers
}

// span is the time that a caller's question may take.
type span struct {
	caller context.Context // as given
	ctx    context.Context // ends with the caller's, with patience, and with the client
	cancel context.CancelCauseFunc
	timer  *time.Timer
	unhook func() bool
}

// begin starts the clock of patience. The span must be ended.
func (c *Client) begin(caller context.Context) *span {
	s := &span{caller: caller}
	s.ctx, s.cancel = context.WithCancelCause(caller)
	s.timer = time.AfterFunc(c.o.Timeouts.Patience, func() { s.cancel(errPatience) })
	s.unhook = context.AfterFunc(c.ctx, func() { s.cancel(errClosed) })
	return s
}

// calm stops the clock: headers have come, from here the stall timer counts.
func (s *span) calm() { s.timer.Stop() }

func (s *span) end() {
	s.timer.Stop()
	s.unhook()
	s.cancel(context.Canceled)
}
