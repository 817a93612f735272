package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/config"
	"github.com/entrepot/entrepot/metrics"
	"github.com/entrepot/entrepot/proxy"
)

// A daemon is all that lives as long as the process serves.
type daemon struct {
	path      string // of the configuration, "" for none
	log       *slog.Logger
	level     *slog.LevelVar
	started   time.Time
	initial   *config.Config // of the start: what a reload does not apply is in force as it has it
	instance  string         // our name in Via
	metrics   *metrics.Metrics
	store     *cache.Store
	handler   *proxy.Handler
	ctx       context.Context // of questions to upstreams that several clients wait for
	cancel    context.CancelFunc
	draining  atomic.Bool
	listening []net.Addr // set before the first request

	mu       sync.Mutex // guards all below
	cfg      *config.Config
	upstream *registries
	loaded   time.Time
	reloaded error    // why the latest reload changed nothing
	restart  []string // keys that have changed and wait for a restart
}

func newDaemon(path string, cfg *config.Config, stderr io.Writer) (*daemon, error) {
	d := &daemon{path: path, initial: cfg, cfg: cfg, started: time.Now(), loaded: time.Now(), level: new(slog.LevelVar), instance: instanceName()}
	d.log = newLogger(cfg.Log, d.level, stderr)
	d.metrics = metrics.New(version())
	var err error
	if d.upstream, err = newRegistries(cfg, nil, d.shared()); err != nil {
		return nil, usageError{err}
	}
	if d.store, err = openStore(cfg, d.log); err != nil {
		return nil, err
	}
	d.metrics.Cache(func() metrics.CacheStats { return metrics.CacheStats(d.store.Stats()) })
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.handler = proxy.New(d.ctx, proxy.Options{
		Store: d.store, Metrics: d.metrics, Log: d.log, Instance: d.instance,
		Patience: time.Duration(cfg.Fetch.Timeouts.Patience), Stalled: time.Duration(cfg.Server.StalledClient),
	}, settings(cfg, d.upstream))
	return d, nil
}

func openStore(cfg *config.Config, log *slog.Logger) (*cache.Store, error) {
	o := cache.Options{
		Dir:         string(cfg.Cache.Dir),
		Size:        cfg.Cache.Size.Of,
		MinFree:     cfg.Cache.MinFree.Of,
		MaxBlobSize: int64(cfg.Cache.MaxBlobSize),
		OnDemand:    cfg.Fetch.Fill == config.FillOnDemand,
		Parallel:    cfg.Fetch.Parallel,
		PieceSize:   int64(cfg.Fetch.PieceSize),
		Background:  cfg.Fetch.Background,
		Patience:    time.Duration(cfg.Fetch.Timeouts.Patience),
		Log:         log,
	}
	if o.Background == 0 {
		o.Background = -1 // none; zero is the store's default
	}
	return cache.Open(o)
}

func settings(cfg *config.Config, r *registries) proxy.Settings {
	return proxy.Settings{
		Upstreams: r,
		Hostname: func(host string) bool {
			for _, p := range cfg.Hostnames {
				if p.Match(host) {
					return true
				}
			}
			return false
		},
		Allow:  cfg.Clients.Allow,
		Access: cfg.Log.Access,
	}
}

func (d *daemon) config() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// reload reads the configuration again and puts in force what can change
// while serving. A bad file changes nothing.
func (d *daemon) reload() {
	err := d.apply()
	d.metrics.Reload(err == nil)
	d.mu.Lock()
	d.reloaded = err
	restart := d.restart
	d.mu.Unlock()
	switch {
	case err != nil:
		d.log.Error("the configuration is not usable; the old one stays in force", "err", err)
	case len(restart) > 0:
		d.log.Warn("configuration reloaded; some keys need a restart", "keys", restart)
	default:
		d.log.Info("configuration reloaded")
	}
}

func (d *daemon) apply() error {
	cfg, err := readConfig(d.path)
	if err != nil {
		return err
	}
	for _, a := range d.listening { // what is open stays open, whatever the file says now
		if err := cfg.CheckListener(a); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := newRegistries(cfg, d.upstream, d.shared())
	if err != nil {
		return err
	}
	setLevel(d.level, cfg.Log)
	d.handler.Reconfigure(settings(cfg, r))
	d.restart = cfg.Restart(d.initial)
	if len(d.restart) == 0 {
		d.restart = nil
	}
	d.cfg, d.upstream, d.loaded = cfg, r, time.Now()
	return nil
}

func (d *daemon) addresses() []string {
	var all []string
	for _, a := range d.listening {
		all = append(all, a.String())
	}
	return all
}

// close ends what run has left.
func (d *daemon) close() error {
	d.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), lockTime)
	defer cancel()
	err := d.store.Close(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.upstream.close()
	return err
}

// ready says whether clients should be sent here.
func (d *daemon) ready() error {
	if d.draining.Load() {
		return errors.New("stopping")
	}
	return nil
}

func (d *daemon) status() Status {
	var s Status
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Version, s.Instance, s.Started, s.Listen = version(), d.instance, d.started, d.addresses()
	s.Config.File, s.Config.LoadedAt, s.Config.Restart = d.path, d.loaded, d.restart
	if d.reloaded != nil {
		s.Config.Error = d.reloaded.Error()
	}
	s.setCache(string(d.initial.Cache.Dir), d.store.Stats())
	for _, u := range d.cfg.Upstreams {
		s.Upstreams = append(s.Upstreams, string(u.Name))
	}
	return s
}

// instanceName is what this process is called in Via.
func instanceName() string {
	var b [8]byte
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return "entrepot-" + hex.EncodeToString(b[:])
}

func newLogger(c config.Log, level *slog.LevelVar, w io.Writer) *slog.Logger {
	setLevel(level, c)
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func setLevel(level *slog.LevelVar, c config.Log) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.Level)); err == nil { // the schema knows no others
		level.Set(l)
	}
}

// shared is what the clients of all upstreams have in common.
func (d *daemon) shared() shared {
	return shared{log: d.log, metrics: d.metrics, via: fmt.Sprintf("1.1 %s", d.instance)}
}
