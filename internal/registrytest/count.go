package registrytest

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
)

// Kinds of request.
const (
	KindPing      = "ping"      // /v2/
	KindManifest  = "manifest"  // /v2/<name>/manifests/<ref>
	KindBlob      = "blob"      // /v2/<name>/blobs/<digest>, at the registry's port
	KindStorage   = "storage"   // a signed address, at the storage port
	KindToken     = "token"     // /token
	KindTags      = "tags"      // /v2/<name>/tags/list
	KindReferrers = "referrers" // /v2/<name>/referrers/<digest>
)

// Match says which requests are meant; "" matches any.
type Match struct {
	Method string
	Kind   string
	Repo   string
	Ref    string // the tag or digest as it was asked for
	Range  string // the Range header, verbatim
}

func (m Match) matches(r *Request) bool {
	return is(m.Method, r.Method) && is(m.Kind, r.Kind) && is(m.Repo, r.Repo) && is(m.Ref, r.Ref) && is(m.Range, r.Range)
}

func is(want, got string) bool { return want == "" || want == got }

// Request is one request as the registry saw it.
type Request struct {
	Method     string
	Kind       string // "" when it is none of the kinds
	Repo       string
	Ref        string
	Range      string
	URL        string // path and query
	Proto      string // "HTTP/1.1", "HTTP/2.0"
	Status     int    // 0 until headers were sent
	Authorized bool   // it carried an Authorization header
	Header     http.Header
	BodyBytes  int64 // of the answer, so far
	Done       bool  // the answer has ended, well or not
}

// Count sums up requests.
type Count struct {
	Requests  int
	Ranged    int   // those with a Range header
	BodyBytes int64 // body bytes of the answers
	Statuses  map[int]int
}

// entry is a request whose answer may still be under way.
type entry struct {
	Request // Status, BodyBytes and Done unused
	status  atomic.Int64
	body    atomic.Int64
	done    atomic.Bool
}

func (e *entry) snapshot() Request {
	r := e.Request
	r.Header = e.Header.Clone()
	r.Status, r.BodyBytes, r.Done = int(e.status.Load()), e.body.Load(), e.done.Load()
	return r
}

// counters is everything counted, and wakes those who wait for a count.
type counters struct {
	sent, received, accepted atomic.Int64 // at the connections of both ports

	mu      sync.Mutex
	entries []*entry      // guarded by mu, as is all below
	running int           // requests being answered
	stalled int           // answers that stand still by a fault
	changed chan struct{} // closed at the next change; nil when nobody waits
}

// update runs f under the lock and wakes those who wait.
func (c *counters) update(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// wait returns nil once cond, which runs under the lock, holds.
func (c *counters) wait(ctx context.Context, what string, cond func() bool) error {
	for {
		c.mu.Lock()
		if cond() {
			c.mu.Unlock()
			return nil
		}
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("registrytest: waiting for %s: %w", what, ctx.Err())
		}
	}
}

func (c *counters) begin(r *http.Request, t target) *entry {
	e := &entry{Request: Request{
		Method: r.Method, Kind: t.kind, Repo: t.repo, Ref: t.ref, Range: r.Header.Get("Range"),
		URL: r.URL.RequestURI(), Proto: r.Proto, Header: r.Header.Clone(),
		Authorized: r.Header.Get("Authorization") != "",
	}}
	c.update(func() {
		c.entries = append(c.entries, e)
		c.running++
	})
	return e
}

func (c *counters) end(e *entry) {
	c.update(func() {
		e.done.Store(true)
		c.running--
	})
}

func (c *counters) addBody(e *entry, n int) {
	if n > 0 {
		c.update(func() { e.body.Add(int64(n)) })
	}
}

// count sums up the requests that match. The caller holds mu.
func (c *counters) count(m Match) Count {
	sum := Count{Statuses: map[int]int{}}
	for _, e := range c.entries {
		if !m.matches(&e.Request) {
			continue
		}
		sum.Requests++
		sum.BodyBytes += e.body.Load()
		if e.Range != "" {
			sum.Ranged++
		}
		if status := int(e.status.Load()); status != 0 {
			sum.Statuses[status]++
		}
	}
	return sum
}

// Count sums up the requests that match, begun or ended.
func (s *Server) Count(m Match) Count {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	return s.counters.count(m)
}

// Requests is the number of requests that match, begun or ended. Requests
// answered with a challenge to sign in count too.
func (s *Server) Requests(m Match) int { return s.Count(m).Requests }

// BodyBytes is how many body bytes were handed to the sockets for requests
// that match. The kernel may hold some that the client never read; of an answer
// that the client broke off, the last write of up to 64 KiB may be missing.
func (s *Server) BodyBytes(m Match) int64 { return s.Count(m).BodyBytes }

// Log returns all requests in the order in which they came.
func (s *Server) Log() []Request {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	all := make([]Request, 0, len(s.counters.entries))
	for _, e := range s.counters.entries {
		all = append(all, e.snapshot())
	}
	return all
}

// SocketBytes is what both ports wrote and read at their connections: headers,
// framing and TLS included.
func (s *Server) SocketBytes() (sent, received int64) {
	return s.counters.sent.Load(), s.counters.received.Load()
}

// Connections is the number of connections accepted at both ports.
func (s *Server) Connections() int { return int(s.counters.accepted.Load()) }

// Reset sets all counts to zero. Requests under way are no longer counted.
func (s *Server) Reset() {
	s.counters.sent.Store(0)
	s.counters.received.Store(0)
	s.counters.accepted.Store(0)
	s.counters.update(func() { s.counters.entries = nil })
}

// WaitRequests returns nil once n requests that match have begun.
func (s *Server) WaitRequests(ctx context.Context, m Match, n int) error {
	return s.counters.wait(ctx, fmt.Sprintf("%d requests that match %+v", n, m), func() bool {
		return s.counters.count(m).Requests >= n
	})
}

// WaitBodyBytes returns nil once n body bytes were handed to the sockets for
// requests that match.
func (s *Server) WaitBodyBytes(ctx context.Context, m Match, n int64) error {
	return s.counters.wait(ctx, fmt.Sprintf("%d body bytes of requests that match %+v", n, m), func() bool {
		return s.counters.count(m).BodyBytes >= n
	})
}

// WaitStalled returns nil once n answers stand still because of a fault.
func (s *Server) WaitStalled(ctx context.Context, n int) error {
	return s.counters.wait(ctx, fmt.Sprintf("%d stalled answers", n), func() bool { return s.counters.stalled >= n })
}

// WaitIdle returns nil once no request is being answered.
func (s *Server) WaitIdle(ctx context.Context) error {
	return s.counters.wait(ctx, "all answers to end", func() bool { return s.counters.running == 0 })
}
