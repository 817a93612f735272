package registrytest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Options say what kind of registry it is. The zero value is a plain one:
// HTTP/1.1 without TLS, nobody signs in, blobs on the registry's own port.
type Options struct {
	TLS   bool // a certificate of the server's own; see [Server.CA]
	HTTP2 bool // with TLS: HTTP/2 is offered; else HTTP/1.1 only

	// Names are host names, besides localhost and the addresses of the machine
	// itself, for which the certificate holds.
	Names []string

	Storage     bool          // blobs are at a second port, behind a 307 to a signed address
	AddressLife time.Duration // after so long a signed address is answered with 403; 0: never

	Auth           Auth
	User, Password string        // for AuthBasic; for the token endpoint: "" issues to anybody
	TokenLife      time.Duration // 0: 5 minutes. Clients are told whole seconds, rounded up

	PerConn int64 // bytes a second of blob bodies for each connection; 0: no limit
	Total   int64 // bytes a second of all blob bodies together; 0: no limit

	NoHead          bool // HEAD is answered with 405
	NoRanges        bool // Range is ignored, at both ports
	NoReferrers     bool // the referrers API is answered with 404
	NoContentDigest bool // no Docker-Content-Digest

	Page   int    // most tags or referrers in one answer; 0: all
	Listen string // of the registry's port; default 127.0.0.1:0. Storage is on another port of the same host
}

// validate reports options that contradict each other.
func (o *Options) validate() error {
	switch {
	case o.HTTP2 && !o.TLS:
		return errors.New("registrytest: HTTP2 needs TLS")
	case o.Auth != AuthNone && o.Auth != AuthBasic && o.Auth != AuthBearer:
		return fmt.Errorf("registrytest: Auth is %q, not one of \"\", basic, bearer", o.Auth)
	case o.Auth == AuthBasic && o.User == "":
		return errors.New("registrytest: Auth basic needs a User")
	}
	return nil
}

// Server is a running registry.
type Server struct {
	options  Options
	content  contents
	faults   faults
	counters counters
	total    pacer
	key      [32]byte     // signs addresses and tokens
	issue    atomic.Int64 // generation of tokens that holds
	cert     *certificate // nil without TLS
	registry *port
	storage  *port // nil without Options.Storage
	buffers  sync.Pool
	closed   atomic.Bool
}

// New starts a registry. The caller closes it.
func New(o Options) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("registrytest: listen: %w", err)
	}
	s := &Server{options: o, total: pacer{rate: o.Total}}
	s.faults.released = make(chan struct{})
	s.buffers.New = func() any { return new([maxChunk]byte) }
	if _, err := rand.Read(s.key[:]); err != nil {
		return nil, fmt.Errorf("registrytest: key: %w", err)
	}
	if o.TLS {
		if s.cert, err = newCertificate(append([]string{host}, o.Names...)); err != nil {
			return nil, err
		}
	}
	s.registry = &port{server: s, addr: o.Listen, handler: s.Handler()}
	if o.Storage {
		s.storage = &port{server: s, addr: net.JoinHostPort(host, "0"), handler: http.HandlerFunc(s.serveStorage)}
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Start is [New] for a test, which closes it.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Server) ports() []*port {
	if s.storage == nil {
		return []*port{s.registry}
	}
	return []*port{s.registry, s.storage}
}

func (s *Server) open() error {
	for _, p := range s.ports() {
		if err := p.open(); err != nil {
			return err
		}
	}
	return nil
}

// Pause closes the ports and cuts all connections: the registry is down, and
// connections to it are refused. What it holds and counts stays.
func (s *Server) Pause() {
	for _, p := range s.ports() {
		p.shut()
	}
}

// Resume opens the same ports again. It fails when another process has taken
// one and keeps it for 5 seconds, or after Close.
func (s *Server) Resume() error {
	if s.closed.Load() {
		return errors.New("registrytest: resumed after Close")
	}
	return s.open()
}

// Close ends all connections and waits up to 5 seconds for their handlers. It
// may be called more than once.
func (s *Server) Close() error {
	s.closed.Store(true)
	s.Pause()
	s.Heal()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.WaitIdle(ctx)
}

// URL is the registry's address, without a slash at its end.
func (s *Server) URL() string { return s.scheme() + "://" + s.Host() }

// Host is the registry's host:port.
func (s *Server) Host() string { return s.registry.host() }

// StorageURL is the address of the storage port; "" without Options.Storage.
func (s *Server) StorageURL() string {
	if s.storage == nil {
		return ""
	}
	return s.scheme() + "://" + s.storage.host()
}

func (s *Server) scheme() string {
	if s.options.TLS {
		return "https"
	}
	return "http"
}
