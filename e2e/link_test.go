//go:build linux

package e2e

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A link is the line to an upstream: it counts what comes down it, whatever
// that is, and can be cut.
type link struct {
	addr   string // where the daemon finds the upstream
	target string // where the upstream is
	down   atomic.Int64

	mu       sync.Mutex
	listener net.Listener          // guarded by mu; nil while cut
	open     map[net.Conn]struct{} // guarded by mu: both ends of each connection
	running  sync.WaitGroup
}

// newLink lays a line to target.
func newLink(t *testing.T, target string) *link {
	t.Helper()
	l := &link{addr: "127.0.0.1:0", target: target, open: map[net.Conn]struct{}{}}
	l.restore(t)
	t.Cleanup(l.cut)
	return l
}

// restore lets connections through (again, at the same address).
func (l *link) restore(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addr, l.listener = listener.Addr().String(), listener
	l.running.Go(func() { l.accept(listener) })
}

// cut ends all connections; new ones are refused.
func (l *link) cut() {
	l.mu.Lock()
	if l.listener != nil {
		l.listener.Close()
		l.listener = nil
	}
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}

func (l *link) accept(listener net.Listener) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil || !l.hold(near, far) {
			near.Close()
			continue
		}
		l.running.Go(func() { pipe(far, near, new(atomic.Int64)) })
		l.running.Go(func() {
			pipe(near, far, &l.down)
			l.release(near, far)
		})
	}
}

// hold notes a connection, unless the line was cut meanwhile.
func (l *link) hold(near, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == nil {
		far.Close()
		return false
	}
	l.open[near], l.open[far] = struct{}{}, struct{}{}
	return true
}

func (l *link) release(near, far net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, near)
	delete(l.open, far)
	near.Close()
	far.Close()
}

// pipe copies until either side ends, and passes the end on.
func pipe(to, from net.Conn, n *atomic.Int64) {
	_, _ = io.Copy(counter{to, n}, from) // a cut line is what it is for
	if c, ok := to.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
}

type counter struct {
	io.Writer
	n *atomic.Int64
}

func (c counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}
