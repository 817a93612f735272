package registrytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// port is a listener that can be closed and opened again at the same address.
type port struct {
	server  *Server
	handler http.Handler

	mu     sync.Mutex
	addr   string        // guarded by mu, as is all below; its number is fixed by the first open
	http   *http.Server  // nil while shut
	served chan struct{} // closed when http has stopped accepting
}

// open starts to accept connections, in a goroutine that shut ends. An open
// port stays as it is.
func (p *port) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.http != nil {
		return nil
	}
	l, err := listen(p.addr)
	if err != nil {
		return err
	}
	p.addr = l.Addr().String()
	p.http = p.newHTTP()
	p.served = make(chan struct{})
	go func(srv *http.Server, served chan<- struct{}) {
		defer close(served)
		counted := &listener{Listener: l, server: p.server}
		// Serve's error is that of the listener closed by shut.
		if srv.TLSConfig != nil {
			_ = srv.ServeTLS(counted, "", "")
			return
		}
		_ = srv.Serve(counted)
	}(p.http, p.served)
	return nil
}

// listen retries for 5 seconds: an address just closed may for a moment be the
// local one of somebody's outgoing connection.
func listen(addr string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err == nil {
			return l, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("registrytest: listen: %w", errors.Join(err, ctx.Err()))
		}
	}
}

func (p *port) newHTTP() *http.Server {
	srv := &http.Server{
		Handler:           p.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	if p.server.cert != nil {
		srv.Protocols.SetHTTP2(p.server.options.HTTP2)
		srv.TLSConfig = p.server.cert.config()
	}
	return srv
}

// shut closes the port and its connections and waits until none is accepted.
func (p *port) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.http == nil {
		return
	}
	_ = p.http.Close() // its error is that of closing connections that are gone
	<-p.served
	_ = p.http.Close() // one accepted meanwhile
	p.http = nil
}

// host is the host:port by which this machine reaches the port.
func (p *port) host() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	host, number, err := net.SplitHostPort(p.addr)
	if ip := net.ParseIP(host); err == nil && (host == "" || (ip != nil && ip.IsUnspecified())) {
		return net.JoinHostPort("127.0.0.1", number)
	}
	return p.addr
}

// anywhere reports whether it listens at all of the machine's addresses.
func (p *port) anywhere() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	host, _, err := net.SplitHostPort(p.addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "" || (ip != nil && ip.IsUnspecified()))
}

func (p *port) number() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, number, _ := net.SplitHostPort(p.addr)
	return number
}

// listener hands out connections that count.
type listener struct {
	net.Listener
	server *Server
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.server.counters.accepted.Add(1)
	o := l.server.options
	if tcp, ok := c.(*net.TCPConn); ok && (o.PerConn > 0 || o.Total > 0) {
		_ = tcp.SetWriteBuffer(pacedBuffer) // the counts are less close without it, no more
	}
	return &conn{Conn: c, counters: &l.server.counters, pacer: pacer{rate: o.PerConn}}, nil
}

// conn counts what goes over a connection. It has no ReadFrom on purpose: bytes
// that sendfile moves can't be counted as they go.
type conn struct {
	net.Conn
	counters *counters
	pacer    pacer
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.counters.received.Add(int64(n))
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.counters.sent.Add(int64(n))
	return n, err
}

// reset closes the connection with a TCP reset.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Conn.Close()
}

// connKey is the context key of the request's connection: a *conn, or a
// *tls.Conn around one.
type connKey struct{}

// connOf returns the request's connection as the HTTP server has it, and the
// counting one below; nil for requests of a server that isn't ours.
func connOf(ctx context.Context) (net.Conn, *conn) {
	outer, _ := ctx.Value(connKey{}).(net.Conn)
	inner := outer
	if wrapped, ok := outer.(interface{ NetConn() net.Conn }); ok {
		inner = wrapped.NetConn()
	}
	c, _ := inner.(*conn)
	return outer, c
}
