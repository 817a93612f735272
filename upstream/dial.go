package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// dialFunc opens a connection; tests put a network of their own here.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// resolveFunc looks up the addresses of a host.
type resolveFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// proxyKey is where exchange leaves the proxy of a request (a *url.URL, nil for none), for the
// transport and for the dialer, which must not judge a proxy that the operator chose.
type proxyKey struct{}

func proxyOf(ctx context.Context) *url.URL {
	u, _ := ctx.Value(proxyKey{}).(*url.URL)
	return u
}

// guardian knows the address rules of one endpoint. It may be used by many goroutines.
type guardian struct {
	host    string // the endpoint's, lower case
	wild    bool
	allow   func(host string) bool // never nil
	connect time.Duration
	resolve resolveFunc // nil: the system's
	dial    dialFunc    // nil: the network
	near    atomic.Int32
}

func newGuardian(host string, o Options) *guardian {
	g := &guardian{host: host, wild: o.Wild, allow: o.AllowRedirect, connect: o.Timeouts.Connect, resolve: o.Resolve}
	if g.allow == nil {
		g.allow = func(string) bool { return false }
	}
	// Behind a proxy no address of the endpoint is ever seen: its name has to do.
	if z, ok := literalZone(host); ok {
		g.near.Store(int32(z))
	}
	return g
}

// ruleFor says where a connection to host may lead. storage: the connection is https with a
// verified certificate, so that a provider's name proves that the provider is there.
func (g *guardian) ruleFor(host string, storage bool) rule {
	host = strings.ToLower(host)
	r := rule{host: host, own: host == g.host}
	near := zone(g.near.Load())
	switch {
	case r.own && g.wild:
		r.upTo = zonePrivate
	case r.own:
		r.upTo = zoneLoopback
	case near == zoneLoopback && !g.wild:
		r.upTo = zoneLoopback
	case near == zonePrivate || g.allow(host) || storage && storageOf(g.host, host):
		r.upTo = zonePrivate
	}
	return r
}

// checkName refuses what is forbidden whatever a resolver says. It is asked before a
// connection, and before a proxy, which would resolve the name for us.
func (g *guardian) checkName(u *url.URL) error {
	z, ok := literalZone(u.Hostname())
	if !ok {
		return nil
	}
	return g.ruleFor(u.Hostname(), u.Scheme == "https").check(z)
}

// dialContext connects to addr if the rules allow the address that it turns out to be.
func (g *guardian) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, g.connect)
	defer cancel()
	nd := net.Dialer{Timeout: g.connect, KeepAlive: 30 * time.Second}
	if proxyOf(ctx) != nil {
		return g.open(ctx, &nd, network, addr)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	// Port 443 stands for TLS: whatever else speaks there fails the handshake.
	r := g.ruleFor(host, port == "443")
	nd.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return &addressError{host: host, zone: zoneForbidden}
		}
		return r.check(classify(ap.Addr()))
	}
	conn, err := g.open(ctx, &nd, network, addr)
	if err == nil && r.own {
		g.remember(conn)
	}
	return conn, err
}

// remember notes where the endpoint itself is: its redirects may lead to the same kind of network.
func (g *guardian) remember(conn net.Conn) {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		g.near.Store(int32(classify(a.AddrPort().Addr())))
	}
}

// open dials by the hooks if there are any, else by the dialer.
func (g *guardian) open(ctx context.Context, nd *net.Dialer, network, addr string) (net.Conn, error) {
	if g.dial != nil {
		return g.dial(ctx, network, addr)
	}
	host, port, err := net.SplitHostPort(addr)
	if _, literal := netip.ParseAddr(host); g.resolve == nil || literal == nil || err != nil {
		return nd.DialContext(ctx, network, addr)
	}
	addrs, err := g.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	err = errors.New("no address for " + host)
	for _, a := range addrs {
		conn, derr := nd.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if derr == nil {
			return conn, nil
		}
		err = derr
	}
	return nil, err
}
