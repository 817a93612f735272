package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// dialFunc opens a connection; tests put a network of their own here.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// resolveFunc looks up the addresses of a host.
type resolveFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// way is what a request tells the transport and the dialer, through its context.
type way struct {
	proxy *url.URL // nil for none; one that the operator chose is not judged by the dialer
	near  zone     // where the endpoint was when it sent us here
}

type wayKey struct{}

func wayOf(ctx context.Context) way {
	w, _ := ctx.Value(wayKey{}).(way)
	return w
}

// guardian knows the address rules of one endpoint. It may be used by many goroutines.
type guardian struct {
	host    string // the endpoint's, lower case
	wild    bool
	allow   func(host string) bool // never nil
	connect time.Duration
	resolve resolveFunc // nil: the system's
	dial    dialFunc    // nil: the network
	literal zone        // what the endpoint's name alone says; behind a proxy it has to do
}

func newGuardian(host string, o Options) *guardian {
	g := &guardian{host: host, wild: o.Wild, allow: o.AllowRedirect, connect: o.Timeouts.Connect, resolve: o.Resolve}
	if g.allow == nil {
		g.allow = func(string) bool { return false }
	}
	g.literal, _ = literalZone(host)
	return g
}

// ruleFor says where a connection to host may lead. near is where the endpoint was, by the
// connection on which it sent us there: its redirects may lead to the same kind of network.
// storage: the connection is https with a verified certificate, so that a provider's
// name proves that the provider is there.
func (g *guardian) ruleFor(host string, near zone, storage bool) rule {
	host = strings.ToLower(host)
	r := rule{host: host, own: host == g.host}
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
func (g *guardian) checkName(u *url.URL, near zone) error {
	z, ok := literalZone(u.Hostname())
	if !ok {
		return nil
	}
	return g.ruleFor(u.Hostname(), near, u.Scheme == "https").check(z)
}

// dialContext connects to addr if the rules allow the address that it turns out to be.
func (g *guardian) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, g.connect)
	defer cancel()
	nd := net.Dialer{Timeout: g.connect, KeepAlive: 30 * time.Second}
	if wayOf(ctx).proxy != nil {
		return g.open(ctx, &nd, network, addr)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	// Port 443 stands for TLS: whatever else speaks there fails the handshake.
	r := g.ruleFor(host, wayOf(ctx).near, port == "443")
	nd.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return &addressError{host: host, zone: zoneForbidden}
		}
		return r.check(classify(ap.Addr()))
	}
	return g.open(ctx, &nd, network, addr)
}

// zoneOf says where the other end of a connection is.
func zoneOf(conn net.Conn) zone {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return classify(a.AddrPort().Addr())
	}
	return zonePublic
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
