package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/entrepot/entrepot/config"
)

// listeners opens the registry API's sockets: those handed over by the service
// manager first, then the configured ones. When one fails, none stays open.
func listeners(ctx context.Context, cfg *config.Config) (open []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range open {
				err = errors.Join(err, l.Close())
			}
			open = nil
		}
	}()
	handed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets handed over: %w", err)
	}
	for _, l := range handed {
		if l == nil {
			continue
		}
		open = append(open, l)
		if err := cfg.CheckListener(l.Addr()); err != nil {
			return open, err
		}
	}
	for _, a := range cfg.Listen {
		network, addr := a.Split()
		if alreadyOpen(open, addr) {
			continue
		}
		l, err := listen(ctx, network, addr, 0o666)
		if err != nil {
			return open, fmt.Errorf("listen %s: %w", a, err)
		}
		open = append(open, l)
	}
	if len(open) == 0 {
		return nil, usageError{errors.New("nothing to listen on: set listen, or hand over a socket")}
	}
	return open, nil
}

// alreadyOpen: a configured address may be one that was handed over, or be part of one: [::]:5000 takes all of port 5000.
func alreadyOpen(open []net.Listener, addr string) bool {
	_, port, _ := net.SplitHostPort(addr)
	for _, l := range open {
		if l.Addr().String() == addr {
			return true
		}
		tcp, ok := l.Addr().(*net.TCPAddr)
		if ok && tcp.IP.IsUnspecified() && strconv.Itoa(tcp.Port) == port {
			return true
		}
	}
	return false
}

// listen opens a socket. A Unix socket that nobody listens on any more is replaced.
func listen(ctx context.Context, network, addr string, mode fs.FileMode) (net.Listener, error) {
	var lc net.ListenConfig
	if network != "unix" {
		return lc.Listen(ctx, network, addr)
	}
	if err := os.MkdirAll(filepath.Dir(addr), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(addr); err != nil {
		return nil, err
	}
	l, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(addr, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("%s is in use by another process", path), c.Close())
	}
	return os.Remove(path)
}

// A clientListener readies each client's connection: the kernel closes it when the
// client has taken no byte for stalled, without a timer or a system call of ours for each write.
type clientListener struct {
	net.Listener
	stalled time.Duration
}

func (l clientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tc, ok := c.(*net.TCPConn); ok {
		setUserTimeout(tc, l.stalled)
	}
	return c, nil
}

// certificate reads a key pair again when its files change; while they are
// unusable the last good one stays in force.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex // guards all below
	checked time.Time
	changed [2]time.Time
	pair    *tls.Certificate
}

// recheck is how often the files' times are looked at.
const recheck = time.Second

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != nil && time.Since(c.checked) < recheck {
		return c.pair, nil
	}
	c.checked = time.Now()
	var changed [2]time.Time
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return c.orLast(err)
		}
		changed[i] = info.ModTime()
	}
	if c.pair != nil && changed == c.changed {
		return c.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return c.orLast(err)
	}
	c.pair, c.changed = &pair, changed
	return c.pair, nil
}

func (c *certificate) orLast(err error) (*tls.Certificate, error) {
	if c.pair != nil {
		return c.pair, nil
	}
	return nil, err
}

// serverTLS is the registry API's TLS configuration, nil for plain HTTP.
func serverTLS(t config.TLS) (*tls.Config, error) {
	if !t.Enabled() {
		return nil, nil
	}
	c := &certificate{certFile: string(t.CertFile), keyFile: string(t.KeyFile)}
	if _, err := c.get(nil); err != nil {
		return nil, usageError{fmt.Errorf("tls: %w", err)}
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"h2", "http/1.1"}}, nil
}
