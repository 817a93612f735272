package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	notify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/entrepot/entrepot/config"
)

func newServe() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := cmd.Flags().GetString("config")
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			context.AfterFunc(ctx, stop) // a second signal ends the process at once
			return serve(ctx, path, cmd.ErrOrStderr())
		},
	}
}

// lockTime is how long after SIGTERM fills may go on before the folder is given up.
const lockTime = 4 * time.Second

// serve runs the daemon until ctx ends, and drains.
func serve(ctx context.Context, path string, stderr io.Writer) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // from start to end: its default would cut the downloads of a drain
	defer signal.Stop(hup)
	cfg, err := readConfig(path)
	if err != nil {
		return err
	}
	d, err := newDaemon(path, cfg, stderr)
	if err != nil {
		return err
	}
	return errors.Join(d.run(ctx, hup), d.close())
}

// run opens the sockets and serves them until ctx ends.
func (d *daemon) run(ctx context.Context, hup <-chan os.Signal) error {
	cfg := d.config()
	open, err := listeners(ctx, cfg)
	if err != nil {
		return err
	}
	tlsConfig, err := serverTLS(cfg.TLS)
	if err != nil {
		return errors.Join(err, closeAll(open))
	}
	for _, l := range open {
		d.listening = append(d.listening, l.Addr())
	}
	api := d.server(d.handler)
	api.TLSConfig = tlsConfig
	side := sideServers{d: d}
	if err := side.start(ctx, cfg); err != nil {
		return errors.Join(err, closeAll(open))
	}
	defer side.stop()
	failed := make(chan error, len(open))
	for _, l := range open {
		l = clientListener{l, time.Duration(cfg.Server.StalledClient)}
		go func() { failed <- serveListener(api, l, tlsConfig != nil) }()
	}
	d.log.Info("serving", "listen", d.addresses(), "metrics", cfg.Metrics.Listen, "admin", cfg.Admin.Socket,
		"cache", cfg.Cache.Dir, "upstreams", len(cfg.Upstreams), "version", version())
	d.notify(notify.SdNotifyReady)
	err = d.wait(ctx, hup, failed)
	d.drain(api, time.Duration(d.config().Server.Drain))
	return err
}

// serveListener serves l until the server is shut down. secure says whether by TLS: once a
// server runs, its TLSConfig does not tell, for net/http sets that in any case.
func serveListener(s *http.Server, l net.Listener, secure bool) error {
	var err error
	if secure {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("listen %s: %w", l.Addr(), err)
}

// wait returns when it is time to end; until then a signal on hup reloads the configuration.
func (d *daemon) wait(ctx context.Context, hup <-chan os.Signal, failed <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-hup:
			d.notify(notify.SdNotifyReloading)
			d.reload()
			d.notify(notify.SdNotifyReady)
		}
	}
}

// drain takes no more connections, gives the folder up within lockTime, and
// lets the downloads that are under way end until limit.
func (d *daemon) drain(api *http.Server, limit time.Duration) {
	d.draining.Store(true)
	d.notify(notify.SdNotifyStopping)
	d.log.Info("stopping: open downloads may end", "within", limit)
	var wg sync.WaitGroup
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := api.Shutdown(ctx); err != nil {
			d.log.Warn("downloads are cut, as server.drain is over", "err", errors.Join(err, api.Close()))
		}
	})
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), lockTime)
		defer cancel()
		if err := d.store.Detach(ctx); err != nil {
			d.log.Warn("the cache was not put away in order; its index is rebuilt at the next start", "err", err)
		}
	})
	wg.Wait()
}

// notify tells the service manager, if there is one.
func (d *daemon) notify(state string) {
	if _, err := notify.SdNotify(false, state); err != nil {
		d.log.Debug("the service manager can't be told", "state", state, "err", err)
	}
}

// server returns a server for clients that may be slow, or hostile.
func (d *daemon) server(h http.Handler) *http.Server {
	cfg := d.config()
	return &http.Server{
		Handler:           withoutBody(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Duration(cfg.Server.IdleTimeout),
		MaxHeaderBytes:    64 << 10,
		HTTP2:             &http.HTTP2Config{WriteByteTimeout: time.Duration(cfg.Server.StalledClient), SendPingTimeout: time.Minute},
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // clients' mistakes
	}
}

const (
	bodyTime = 2 * time.Second
	bodySize = 256 << 10
)

// withoutBody bounds the wait for bodies of requests. Nothing here reads one, but net/http takes
// it in before it sends the answer, and has no time limit for that which spares long answers.
func withoutBody(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(bodyTime)) // not all writers can
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				// The answer may be long, and the time limit would break it: be done with the body before.
				if n, err := io.Copy(io.Discard, io.LimitReader(r.Body, bodySize)); err != nil || n == bodySize {
					panic(http.ErrAbortHandler) // net/http's way to close a connection; it logs nothing
				}
				_ = rc.SetReadDeadline(time.Time{})
			}
		}
		h.ServeHTTP(w, r)
	})
}

func closeAll(open []net.Listener) error {
	var err error
	for _, l := range open {
		err = errors.Join(err, l.Close())
	}
	return err
}

// sideServers are the listeners for monitoring and for operators.
type sideServers struct {
	d       *daemon
	running sync.WaitGroup
	servers []*http.Server
}

// start opens both. Without the admin socket the daemon does its work all the same.
func (s *sideServers) start(ctx context.Context, cfg *config.Config) error {
	if network, addr := cfg.Metrics.Listen.Split(); addr != "" {
		l, err := listen(ctx, network, addr, 0o666)
		if err != nil {
			return fmt.Errorf("metrics.listen %s: %w", cfg.Metrics.Listen, err)
		}
		s.serve(l, s.d.metrics.Health(s.d.ready))
	}
	l, err := listen(ctx, "unix", string(cfg.Admin.Socket), 0o660)
	if err != nil {
		s.d.log.Warn("no admin socket: entrepot status can't reach this daemon", "err", err)
		return nil
	}
	s.serve(l, adminHandler(s.d.status))
	return nil
}

func (s *sideServers) serve(l net.Listener, h http.Handler) {
	srv := s.d.server(h)
	s.servers = append(s.servers, srv)
	s.running.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.d.log.Error("a listener has failed", "listen", l.Addr().String(), "err", err)
		}
	})
}

func (s *sideServers) stop() {
	for _, srv := range s.servers {
		if err := srv.Close(); err != nil {
			s.d.log.Debug("close a listener", "err", err)
		}
	}
	s.running.Wait()
}
